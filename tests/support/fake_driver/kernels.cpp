// The bookkeeping kernels themselves, compiled for the CPU, and those of examples/cpp/two_graphs.cpp.

#include "fake.h"

#define __global__
#define __device__
static void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

extern "C" void cudaGraphSetConditional(unsigned long long handle, unsigned value) {
    fake::state.handles.at(handle).value = value;
}

#include "../../csrc/chain_kernels.cu"
#include "../../csrc/loop_kernels.cu"

static void double_it(float* x, int* step) {
    *x *= 2;
    *step += 1;
}

static void add_one(float* x, int* step) {
    *x += 1;
    *step += 1;
}

namespace fake {
namespace {

template <class... Args, std::size_t... I>
Kernel make(const char* name, void (*function)(Args...), std::index_sequence<I...>) {
    return {name, {sizeof(Args)...}, [function](void** p) {
                function(*static_cast<Args*>(p[I])...);
            }};
}

template <class... Args>
Kernel make(const char* name, void (*function)(Args...)) {
    return make(name, function, std::index_sequence_for<Args...>());
}

}  // namespace

const std::vector<Kernel>& kernels() {
    static const std::vector<Kernel> all = {
        make("morse_begin", morse_begin),
        make("morse_choose_switch", morse_choose_switch),
        make("morse_choose_two", morse_choose_two),
        make("morse_pick_two", morse_pick_two),
        make("morse_count_pick_two", morse_count_pick_two),
        make("morse_next", morse_next),
        make("morse_count_next", morse_count_next),
        make("morse_end", morse_end),
        make("morse_chain_start", morse_chain_start),
        make("morse_chain_count", morse_chain_count),
        make("morse_chain_end", morse_chain_end),
        make("double_it", double_it),
        make("add_one", add_one),
    };
    return all;
}

}  // namespace fake
