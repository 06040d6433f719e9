// What tests call, by ctypes: make step graphs, set the scene, look inside.

#include <cstdlib>
#include <cstring>

#include "fake.h"

using namespace fake;

namespace {

Node* append(void* graph, NodeType type) {
    auto node = std::make_unique<Node>();
    node->owner = static_cast<Graph*>(graph);
    node->type = type;
    auto& nodes = node->owner->nodes;
    if (!nodes.empty()) node->dependencies.push_back(nodes.back().get());
    nodes.push_back(std::move(node));
    return nodes.back().get();
}

}  // namespace

extern "C" {

void fake_reset() {
    // Kept for ever: an object of an earlier test may still be alive, and must neither read memory
    // that is gone nor free what is new at the same address.
    static std::vector<std::unique_ptr<State>> earlier;
    earlier.push_back(std::make_unique<State>(std::move(state)));
    state = {};
}

void fake_set(int version, int context, int deferred, int body_defaults) {
    state.version = version;
    state.context = context != 0;
    state.deferred = deferred != 0;
    state.body_defaults = body_defaults != 0;
}

void* fake_graph() {
    auto made = std::make_shared<Graph>();
    state.graphs[made.get()] = made;
    return made.get();
}

void fake_destroy(void* graph) { state.graphs.erase(static_cast<Graph*>(graph)); }

void fake_add_kernel(void* graph, const char* name, int (*callback)(), int cooperative) {
    Node* node = append(graph, NodeType::kernel);
    node->kernel = name;
    node->callback = callback;
    node->cooperative = cooperative != 0;
}

void fake_add_node(void* graph, int type) { append(graph, static_cast<NodeType>(type)); }

void fake_add_child(void* graph, void* child) {
    append(graph, NodeType::graph)->child = clone(*static_cast<Graph*>(child));
}

// Types: 1 host, 2 device, 3 array, 4 unified.
void fake_add_memcpy(void* graph, int from_type, void* from, int to_type, void* to) {
    Node* node = append(graph, NodeType::memcpy);
    node->copy.src_type = static_cast<MemoryType>(from_type);
    node->copy.dst_type = static_cast<MemoryType>(to_type);
    node->copy.src_host = from;
    node->copy.dst_host = to;
    node->copy.src_device = reinterpret_cast<DevicePointer>(from);
    node->copy.dst_device = reinterpret_cast<DevicePointer>(to);
}

void* fake_pinned(std::size_t bytes) {
    void* memory = std::malloc(bytes);
    state.host_memory.insert(memory);
    return memory;
}

void fake_fail(const char* name, int nth, int code) { state.failures[name] = {nth, code}; }
void fake_refuse(const char* what) { state.refuses.insert(what); }
int fake_calls(const char* name) { return state.calls[name]; }
void fake_overwrite(std::size_t offset, int value) {
    static_cast<unsigned char*>(*state.memory.begin())[offset] = static_cast<unsigned char>(value);
}
int fake_run_pending() { return run_pending(); }

// graphs, execs, device allocations, host allocations, modules
void fake_live(int* counts) {
    counts[0] = static_cast<int>(state.graphs.size());
    counts[1] = static_cast<int>(state.execs.size());
    counts[2] = static_cast<int>(state.memory.size());
    counts[3] = static_cast<int>(state.host_memory.size());
    counts[4] = static_cast<int>(state.modules.size());
}

// Of the graph that was instantiated last.
const char* fake_dump() {
    static std::string text;
    text = state.instantiated ? dump(*state.instantiated, "") : "";
    return text.c_str();
}

const char* fake_kernels_found() {
    static std::string text;
    text.clear();
    for (auto& name : state.found) text += name + "\n";
    return text.c_str();
}

}  // extern "C"
