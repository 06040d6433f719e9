// The bookkeeping kernels of a loop, one thread each.
//
// They keep the loop finite whatever the memory holds: a run makes at most `capacity` steps, even if
// a step graph forgets to add 1 to the step number.
// Compiled to loop_kernels.ptx.h by generate_ptx.py; the tests compile this file as host C++.

#include "loop_state.h"

using morse_engine::LoopArgs;
using Handle = unsigned long long;  // cudaGraphConditionalHandle

constexpr unsigned dash = 0, dot = 1, none = 2;  // none: the SWITCH has no such case

// Written by the host or by other kernels of the run: read anew each time.
static __device__ int load(const int* address) { return *(const volatile int*)address; }

static __device__ void report(const LoopArgs& args) {
    unsigned long long run = (unsigned)load(&args.state->run);
    *(volatile unsigned long long*)&args.words->progress = run << 32 | (unsigned)load(args.step);
    __threadfence_system();
}

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

static __device__ void start(const LoopArgs& args) {
    args.state->run += 1;
    args.state->turns = 0;
    report(args);
}

// A step was made.
static __device__ void count(const LoopArgs& args) {
    args.state->turns += 1;
    report(args);
}

extern "C" {

__global__ void morse_begin(LoopArgs args, Handle loop) {
    start(args);
    cudaGraphSetConditional(loop, next_kind(args) != none);
}

__global__ void morse_pick_switch(LoopArgs args, Handle kind) {
    cudaGraphSetConditional(kind, planned_kind(args));
}

__global__ void morse_pick_two(LoopArgs args, Handle if_dash, Handle if_dot) {
    unsigned kind = planned_kind(args);
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

// For a chain of steps without conditions.
__global__ void morse_start(LoopArgs args) { start(args); }

__global__ void morse_count(LoopArgs args) { count(args); }

__global__ void morse_end(LoopArgs args) {
    *(volatile int*)&args.words->finished = load(&args.state->run);
    __threadfence_system();
}

}  // extern "C"
