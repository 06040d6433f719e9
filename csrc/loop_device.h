// Device code that the kernels of both modules share; compiled by nvcc, and by the tests as host C++.

#pragma once

#include "loop_state.h"

using morse_engine::LoopArgs;

// Written by the host or by other kernels of the run: read anew each time.
static __device__ int load(const int* address) { return *(const volatile int*)address; }

static __device__ void report(const LoopArgs& args) {
    unsigned long long run = (unsigned)load(&args.state->run);
    *(volatile unsigned long long*)&args.words->progress = run << 32 | (unsigned)load(args.step);
    __threadfence_system();
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

static __device__ void end(const LoopArgs& args) {
    report(args);
    *(volatile int*)&args.words->finished = load(&args.state->run);
    __threadfence_system();
}
