// Graphs: running, copying, printing.

#include "fake.h"

namespace fake {

State state;

Graph::~Graph() {
    for (auto it = state.handles.begin(); it != state.handles.end();)
        it = it->second.graph == this ? state.handles.erase(it) : std::next(it);
}

namespace {

constexpr int endless = 1000000;  // turns of one WHILE

void apply_defaults(const Graph& graph, bool deep) {
    for (auto& [id, handle] : state.handles)
        if (handle.graph == &graph) handle.value = handle.initial;
    if (!deep) return;
    for (auto& node : graph.nodes)
        for (auto& body : node->bodies) apply_defaults(*body, true);
}

Result run(Graph& graph);

Result run(Node& node) {
    if (node.callback != nullptr) return node.callback() == 0 ? success : launch_failed;
    if (node.function != nullptr) {
        std::vector<void*> values;
        for (auto& argument : node.arguments) values.push_back(argument.data());
        node.function->run(values.data());
        return success;
    }
    if (node.child != nullptr) return run(*node.child);
    if (node.type != NodeType::conditional) return success;

    Handle& handle = state.handles.at(node.handle);
    if (node.condition == ConditionalType::while_node) {
        for (int turn = 0; handle.value != 0; ++turn) {
            if (turn == endless) return launch_timeout;
            if (Result code = run(*node.bodies[0]); code != success) return code;
        }
    } else if (node.condition == ConditionalType::if_node) {
        if (handle.value != 0) return run(*node.bodies[0]);
        if (node.bodies.size() == 2) return run(*node.bodies[1]);
    } else if (handle.value < node.bodies.size()) {
        return run(*node.bodies[handle.value]);
    }
    return success;
}

Result run(Graph& graph) {
    if (graph.body && state.body_defaults) apply_defaults(graph, false);
    // A node depends only on nodes that were added before it.
    for (auto& node : graph.nodes)
        if (Result code = run(*node); code != success) return code;
    return success;
}

const char* name(NodeType type) {
    constexpr const char* names[] = {"kernel", "memcpy", "memset", "host", "graph", "empty",
                                     "wait_event", "event_record", "ext_semas_signal",
                                     "ext_semas_wait", "mem_alloc", "mem_free", "batch_mem_op",
                                     "conditional"};
    return static_cast<std::size_t>(type) < std::size(names) ? names[static_cast<int>(type)] : "?";
}

}  // namespace

Result execute(Graph& graph) {
    apply_defaults(graph, true);
    return run(graph);
}

std::shared_ptr<Graph> clone(const Graph& graph) {
    auto copy = std::make_shared<Graph>();
    std::map<const Node*, Node*> twin;
    for (auto& node : graph.nodes) {
        auto made = std::make_unique<Node>(*node);
        made->owner = copy.get();
        for (Node*& before : made->dependencies) before = twin.at(before);
        if (node->child != nullptr) made->child = clone(*node->child);
        twin[node.get()] = made.get();
        copy->nodes.push_back(std::move(made));
    }
    return copy;
}

bool contains(const Graph& graph, NodeType type) {
    for (auto& node : graph.nodes)
        if (node->type == type || (node->child != nullptr && contains(*node->child, type)))
            return true;
    return false;
}

// One line a node, "after" it those it waits for where that is not the line before alone.
std::string dump(const Graph& graph, const std::string& indent) {
    constexpr const char* conditions[] = {"IF", "WHILE", "SWITCH"};
    std::string text;
    std::map<const Node*, std::size_t> position;
    for (auto& node : graph.nodes) {
        std::size_t index = position.size();
        position[node.get()] = index;
        text += indent;
        text += node->type == NodeType::conditional
                    ? conditions[static_cast<int>(node->condition)]
                    : node->kernel.empty() ? name(node->type) : node->kernel;
        bool chained = index == 0 ? node->dependencies.empty()
                                  : node->dependencies.size() == 1 &&
                                        position.at(node->dependencies[0]) == index - 1;
        if (!chained) {
            text += " after";
            for (Node* before : node->dependencies) text += " " + std::to_string(position.at(before));
            if (node->dependencies.empty()) text += " nothing";
        }
        text += "\n";
        if (node->child != nullptr) text += dump(*node->child, indent + "  ");
        for (std::size_t i = 0; i < node->bodies.size(); ++i) {
            if (node->bodies.size() > 1) text += indent + " case " + std::to_string(i) + "\n";
            text += dump(*node->bodies[i], indent + "  ");
        }
    }
    return text;
}

Result enter(const char* name) {
    int call = ++state.calls[name];
    auto wanted = state.failures.find(name);
    return wanted != state.failures.end() && wanted->second.first == call ? wanted->second.second
                                                                         : success;
}

Result in_stream_order(std::function<Result()> work) {
    if (!state.deferred) return work();
    state.queue.push_back(std::move(work));
    return success;
}

Result run_pending() {
    Result first = success;
    while (!state.queue.empty()) {
        auto work = std::move(state.queue.front());
        state.queue.pop_front();
        Result code = work();
        if (first == success) first = code;
    }
    return first;
}

}  // namespace fake
