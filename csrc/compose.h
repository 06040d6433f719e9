// Builds the graph of a loop around two captured steps.

#pragma once

#include "loop_state.h"
#include "morse_engine/driver.h"
#include "morse_engine/loop_graph.h"

namespace morse_engine {

struct Steps {
    CUgraph dash;
    CUgraph dot;  // may be null
};

// What the nodes of a loop need.
struct Material {
    const cuda::Api& api;
    CUcontext context;
    CUmodule kernels;
    LoopArgs args;
};

struct Composition {
    CUgraph root;   // to be destroyed by the caller
    int num_nodes;  // that were added
};

// The graph of `layout`; copies the steps. `plan` is for Layout::unrolled, others read theirs from
// device memory.
Composition compose(const Material& material, Steps steps, Layout layout, std::string_view plan);

}  // namespace morse_engine
