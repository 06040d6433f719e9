// What the host and the bookkeeping kernels of a loop share.

#pragma once

namespace morse_engine {

// Device memory; `kinds`, one byte for each step (0 Dash, 1 Dot, 2 free), follows it. The step before
// a free step adds more than 1 to the step number, so that none is picked; it would end the run.
struct LoopState {
    int num_steps;  // of the plan
    int until;      // the run ends before this step
    int turns;      // steps made in this run
    int run;        // number of the run, from 1
};

// Pinned host memory that the device sees.
struct LoopWords {
    // Number of the run (high half) and step number (low half), in one word so that nobody reads
    // the step of one run as that of another; written by the device.
    unsigned long long progress;
    int finished;        // number of the last run that ended, written by the device
    int cancel_through;  // runs up to this number are to end, written by the host
};

// By value in every kernel node; nothing in it changes from run to run.
struct LoopArgs {
    LoopState* state;
    const unsigned char* kinds;
    LoopWords* words;
    const int* step;
    int capacity;
};

}  // namespace morse_engine
