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

// For Layout::unrolled: calls, '-' or '.', in a row. A run is one piece or several.
struct Piece {
    std::string_view calls;
    bool first, last;  // of its run
};

// The graph of `layout`; copies the steps. Only Layout::unrolled looks at `piece`, others read their
// plan from device memory.
Composition compose(const Material& material, Steps steps, Layout layout, Piece piece);

}  // namespace morse_engine
