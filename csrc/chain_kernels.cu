// The bookkeeping kernels of a chain of steps, one thread each. They set no condition, so that a driver
// without conditional nodes can load them.
// Compiled to loop_kernels.ptx.h by generate_ptx.py; the tests compile this file as host C++.

#include "loop_device.h"

extern "C" {

__global__ void morse_chain_start(LoopArgs args) { start(args); }

__global__ void morse_chain_count(LoopArgs args) { count(args); }

__global__ void morse_chain_end(LoopArgs args) { end(args); }

}  // extern "C"
