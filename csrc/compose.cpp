#include "compose.h"

#include <vector>

namespace morse_engine {
namespace {

using namespace cuda;

// The value of a SWITCH that selects no body. Handles start every launch with a value that runs
// nothing, so a loop whose kernels did not run ends.
constexpr unsigned no_kind = 2;

class Composer {
   public:
    explicit Composer(const Material& material) : material_(material), api_(material.api) {}

    int num_nodes() const { return num_nodes_; }

    // Places nodes one after the other at the end of one graph.
    struct Chain {
        CUgraph graph;
        CUgraphNode last = nullptr;
    };

    void kernel(Chain& chain, const char* name, std::vector<ConditionalHandle> handles = {}) {
        LoopArgs args = material_.args;
        std::vector<void*> values = {&args};
        for (ConditionalHandle& handle : handles) values.push_back(&handle);

        NodeParams params = {};
        params.type = NodeType::kernel;
        params.kernel.grid_x = params.kernel.grid_y = params.kernel.grid_z = 1;
        params.kernel.block_x = params.kernel.block_y = params.kernel.block_z = 1;
        params.kernel.params = values.data();
        params.kernel.ctx = material_.context;
        api_.cuModuleGetFunction(&params.kernel.func, material_.kernels, name);
        append(chain, params);
    }

    void step(Chain& chain, CUgraph graph) {
        NodeParams params = {};
        params.type = NodeType::graph;
        params.graph.graph = graph;
        append(chain, params);
    }

    ConditionalHandle handle(const Chain& chain, unsigned initial) {
        ConditionalHandle handle = 0;
        api_.cuGraphConditionalHandleCreate(&handle, chain.graph, material_.context, initial,
                                            cond_assign_default);
        return handle;
    }

    // A conditional node; returns chains for its bodies.
    std::vector<Chain> conditional(Chain& chain, ConditionalType type, ConditionalHandle handle,
                                   unsigned size = 1) {
        NodeParams params = {};
        params.type = NodeType::conditional;
        params.conditional.handle = handle;
        params.conditional.type = type;
        params.conditional.size = size;
        params.conditional.ctx = material_.context;
        append(chain, params);
        std::vector<Chain> bodies;
        for (unsigned i = 0; i < size; ++i) bodies.push_back({params.conditional.bodies[i]});
        return bodies;
    }

   private:
    void append(Chain& chain, NodeParams& params) {
        CUgraphNode node = nullptr;
        api_.cuGraphAddNode(&node, chain.graph, chain.last != nullptr ? &chain.last : nullptr,
                            nullptr, chain.last != nullptr ? 1 : 0, &params);
        chain.last = node;
        ++num_nodes_;
    }

    const Material& material_;
    const Api& api_;
    int num_nodes_ = 0;
};

using Chain = Composer::Chain;

// choose -> SWITCH { Dash | Dot }
void switch_body(Composer& make, Chain& body, Steps steps, ConditionalHandle loop) {
    ConditionalHandle kind = make.handle(body, no_kind);
    make.kernel(body, "morse_choose_switch", {loop, kind});
    auto cases = make.conditional(body, ConditionalType::switch_node, kind, 2);
    make.step(cases[0], steps.dash);
    make.step(cases[1], steps.dot);
}

// choose -> IF { Dash } -> IF { Dot }
void two_ifs_body(Composer& make, Chain& body, Steps steps, ConditionalHandle loop) {
    ConditionalHandle dash = make.handle(body, 0);
    ConditionalHandle dot = make.handle(body, 0);
    make.kernel(body, "morse_choose_two", {loop, dash, dot});
    make.step(make.conditional(body, ConditionalType::if_node, dash)[0], steps.dash);
    make.step(make.conditional(body, ConditionalType::if_node, dot)[0], steps.dot);
}

// pick -> WHILE { Dash -> pick } -> WHILE { Dot -> pick } -> next. The inner loops count the steps.
void nested_body(Composer& make, Chain& body, Steps steps, ConditionalHandle loop) {
    ConditionalHandle dash = make.handle(body, 0);
    ConditionalHandle dot = make.handle(body, 0);
    make.kernel(body, "morse_pick_two", {dash, dot});
    Chain dashes = make.conditional(body, ConditionalType::while_node, dash)[0];
    make.step(dashes, steps.dash);
    make.kernel(dashes, "morse_count_pick_two", {dash, dot});
    Chain dots = make.conditional(body, ConditionalType::while_node, dot)[0];
    make.step(dots, steps.dot);
    make.kernel(dots, "morse_count_pick_two", {dash, dot});
    make.kernel(body, "morse_next", {loop});
}

void build(Composer& make, Chain root, Steps steps, Layout layout, Piece piece) {
    if (layout == Layout::unrolled) {
        if (piece.first) make.kernel(root, "morse_chain_start");
        for (char symbol : piece.calls) {
            make.step(root, symbol == '-' ? steps.dash : steps.dot);
            make.kernel(root, "morse_chain_count");
        }
        if (piece.last) make.kernel(root, "morse_chain_end");
        return;
    }
    ConditionalHandle loop = make.handle(root, 0);
    make.kernel(root, "morse_begin", {loop});
    Chain body = make.conditional(root, ConditionalType::while_node, loop)[0];
    if (steps.dot == nullptr) {
        make.step(body, steps.dash);
        make.kernel(body, "morse_count_next", {loop});
    } else if (layout == Layout::switch_node) {
        switch_body(make, body, steps, loop);
    } else if (layout == Layout::two_ifs) {
        two_ifs_body(make, body, steps, loop);
    } else {
        nested_body(make, body, steps, loop);
    }
    make.kernel(root, "morse_end");
}

}  // namespace

Composition compose(const Material& material, Steps steps, Layout layout, Piece piece) {
    CUgraph root = nullptr;
    material.api.cuGraphCreate(&root, 0);
    try {
        Composer make(material);
        build(make, {root}, steps, layout, piece);
        return {root, make.num_nodes()};
    } catch (...) {
        material.api.cuGraphDestroy.result(root);
        throw;
    }
}

}  // namespace morse_engine
