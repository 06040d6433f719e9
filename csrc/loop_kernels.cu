// The bookkeeping kernels of a loop, one thread each.
//
// They keep the loop finite whatever the memory holds: a run makes at most `capacity` steps, even if
// a step graph forgets to add 1 to the step number.
// Compiled to loop_kernels.ptx.h by generate_ptx.py; the tests compile this file as host C++.

#include "loop_device.h"

using Handle = unsigned long long;  // cudaGraphConditionalHandle

constexpr unsigned dash = 0, dot = 1, none = 2;  // none: the SWITCH has no such case

// The kind of the next step; `none` where the plan or the run ends.
static __device__ unsigned planned_kind(const LoopArgs& args) {
    int step = load(args.step);
    bool go = step >= 0 && step < load(&args.state->until) && step < load(&args.state->num_steps) &&
              step < args.capacity && load(&args.state->turns) < args.capacity;
    if (!go) return none;
    unsigned kind = args.kinds[step];
    return kind <= dot ? kind : none;
}

// The same, or `none` if the run was cancelled. That word lies in host memory, microseconds away, so
// it is read once for each step.
static __device__ unsigned next_kind(const LoopArgs& args) {
    bool cancelled = load(&args.state->run) <= load(&args.words->cancel_through);
    return cancelled ? none : planned_kind(args);
}

// At the beginning of a turn: the step before it is reported, the step of this turn is chosen. The
// loop goes on if steps are left behind that one. Where those are free steps, or the run is cancelled
// meanwhile, one more turn follows that makes nothing.
static __device__ unsigned choose(const LoopArgs& args, Handle loop) {
    if (args.state->turns != 0) report(args);
    unsigned kind = next_kind(args);
    args.state->turns += 1;
    int behind = load(args.step) + 1;
    bool more = behind < load(&args.state->until) && behind < load(&args.state->num_steps);
    cudaGraphSetConditional(loop, kind != none && more);
    return kind;
}

extern "C" {

__global__ void morse_begin(LoopArgs args, Handle loop) {
    start(args);
    cudaGraphSetConditional(loop, next_kind(args) != none);
}

__global__ void morse_choose_switch(LoopArgs args, Handle loop, Handle kind) {
    cudaGraphSetConditional(kind, choose(args, loop));
}

__global__ void morse_choose_two(LoopArgs args, Handle loop, Handle if_dash, Handle if_dot) {
    unsigned kind = choose(args, loop);
    cudaGraphSetConditional(if_dash, kind == dash);
    cudaGraphSetConditional(if_dot, kind == dot);
}

// For Dash alone, and for loops within the loop.
__global__ void morse_pick_two(LoopArgs args, Handle if_dash, Handle if_dot) {
    unsigned kind = next_kind(args);
    cudaGraphSetConditional(if_dash, kind == dash);
    cudaGraphSetConditional(if_dot, kind == dot);
}

__global__ void morse_count_pick_two(LoopArgs args, Handle if_dash, Handle if_dot) {
    count(args);
    unsigned kind = next_kind(args);
    cudaGraphSetConditional(if_dash, kind == dash);
    cudaGraphSetConditional(if_dot, kind == dot);
}

__global__ void morse_next(LoopArgs args, Handle loop) {
    cudaGraphSetConditional(loop, next_kind(args) != none);
}

__global__ void morse_count_next(LoopArgs args, Handle loop) {
    count(args);
    cudaGraphSetConditional(loop, next_kind(args) != none);
}

__global__ void morse_end(LoopArgs args) { end(args); }

}  // extern "C"
