// A CUDA driver for tests, without a GPU: it keeps graphs as the real one does, refuses what the real
// one refuses, and runs them on the CPU, where "device memory" is ordinary memory.

#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "morse_engine/driver_types.h"

namespace fake {

using namespace morse_engine::cuda;

constexpr Result invalid_value = 1;
constexpr Result out_of_memory = 2;
constexpr Result invalid_context = 201;
constexpr Result invalid_ptx = 218;
constexpr Result invalid_handle = 400;
constexpr Result not_found = 500;
constexpr Result launch_timeout = 702;
constexpr Result launch_failed = 719;
constexpr Result not_supported = 801;

struct Graph;

// A kernel that the fake can run: the sizes of its parameters, and the host function.
struct Kernel {
    std::string name;
    std::vector<std::size_t> sizes;
    std::function<void(void**)> run;
};

struct Node {
    Graph* owner = nullptr;
    NodeType type = NodeType::empty;
    std::vector<Node*> dependencies;

    std::string kernel;
    const Kernel* function = nullptr;           // a bookkeeping kernel
    std::vector<std::vector<char>> arguments;   // copied when the node is added, as by the driver
    int (*callback)() = nullptr;                // a step of the test; not 0 is a failed launch
    bool cooperative = false;

    Memcpy3D copy = {};
    std::shared_ptr<Graph> child;
    ConditionalHandle handle = 0;
    ConditionalType condition = ConditionalType::if_node;
    std::vector<std::shared_ptr<Graph>> bodies;
    std::vector<CUgraph> body_handles;
};

struct Graph {
    std::vector<std::unique_ptr<Node>> nodes;
    bool body = false;
    int instances = 0;

    ~Graph();  // its conditional handles end with it
};

struct Handle {
    Graph* graph;
    unsigned initial;
    bool used = false;
    unsigned value = 0;
};

struct Exec {
    std::shared_ptr<Graph> graph;
};

struct State {
    int version = 12080;
    bool context = true;
    bool deferred = false;
    std::set<std::string> refuses;  // conditional, switch, extern, upload, launch
    bool body_defaults = false;  // apply defaults whenever a body starts, not only at launch

    std::map<ConditionalHandle, Handle> handles;
    ConditionalHandle last_handle = 0;
    std::map<Graph*, std::shared_ptr<Graph>> graphs;  // made by cuGraphCreate and by tests
    std::set<Exec*> execs;
    std::set<void*> memory, host_memory;
    std::map<void*, std::string> modules;  // PTX text
    std::set<std::string> found;           // kernels that were looked up
    std::shared_ptr<Graph> instantiated;  // the last one

    std::deque<std::function<Result()>> queue;
    std::map<std::string, int> calls;
    std::map<std::string, std::pair<int, Result>> failures;  // name -> (which call, code)
};

extern State state;

// Counts the call; the code that the test wants it to fail with, or success.
Result enter(const char* name);
// Now, or when the test says so.
Result in_stream_order(std::function<Result()> work);
Result run_pending();

const std::vector<Kernel>& kernels();
Result execute(Graph& graph);
std::shared_ptr<Graph> clone(const Graph& graph);
std::string dump(const Graph& graph, const std::string& indent);
bool contains(const Graph& graph, NodeType type);

inline Graph* of(CUgraph handle) { return reinterpret_cast<Graph*>(handle); }
inline Node* of(CUgraphNode handle) { return reinterpret_cast<Node*>(handle); }
inline CUcontext the_context() { return reinterpret_cast<CUcontext>(0xc0); }

}  // namespace fake
