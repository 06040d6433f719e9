// The calls of the driver API, found by name and version as in the real one.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "fake.h"
#include "morse_engine/driver_calls.h"

namespace fake {
namespace {

#define ENTER()                                                     \
    do {                                                            \
        if (Result code = enter(__func__); code != success) return code; \
    } while (false)

bool known(Graph* graph) {
    // Bodies and child graphs are known through the handles that the driver gave out.
    if (state.graphs.count(graph) != 0) return true;
    std::function<bool(const Graph&)> within = [&](const Graph& root) {
        for (auto& node : root.nodes) {
            if (node->child != nullptr && (node->child.get() == graph || within(*node->child)))
                return true;
            for (auto& body : node->bodies)
                if (body.get() == graph || within(*body)) return true;
        }
        return false;
    };
    for (auto& [key, root] : state.graphs)
        if (within(*root)) return true;
    return false;
}

Result cuGetErrorName(Result code, const char** name) {
    const std::map<Result, const char*> names = {
        {invalid_value, "CUDA_ERROR_INVALID_VALUE"},     {out_of_memory, "CUDA_ERROR_OUT_OF_MEMORY"},
        {invalid_context, "CUDA_ERROR_INVALID_CONTEXT"}, {invalid_handle, "CUDA_ERROR_INVALID_HANDLE"},
        {launch_failed, "CUDA_ERROR_LAUNCH_FAILED"},     {launch_timeout, "CUDA_ERROR_LAUNCH_TIMEOUT"},
        {not_supported, "CUDA_ERROR_NOT_SUPPORTED"},     {not_found, "CUDA_ERROR_NOT_FOUND"},
        {invalid_ptx, "CUDA_ERROR_INVALID_PTX"},
    };
    auto it = names.find(code);
    *name = it == names.end() ? nullptr : it->second;
    return it == names.end() ? invalid_value : success;
}

Result cuGetErrorString(Result, const char** text) {
    *text = "said the fake driver";
    return success;
}

Result cuDriverGetVersion(int* version) {
    *version = state.version;
    return success;
}

Result cuCtxGetCurrent(CUcontext* context) {
    ENTER();
    *context = state.context ? the_context() : nullptr;
    return success;
}

Result cuCtxPushCurrent(CUcontext context) {
    return context == the_context() ? success : invalid_context;
}
Result cuCtxPopCurrent(CUcontext* context) {
    *context = the_context();
    return success;
}

Result cuCtxSynchronize() {
    ENTER();
    return run_pending();
}

Result cuStreamSynchronize(CUstream) {
    ENTER();
    return run_pending();
}

Result cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned count, JitOption* options,
                          void** values) {
    ENTER();
    std::string text = static_cast<const char*>(image);
    if (state.refuses.count("extern") != 0 && text.find(".extern") != std::string::npos) {
        if (count != 2 || options[0] != JitOption::error_log ||
            options[1] != JitOption::error_log_bytes)
            return invalid_value;
        std::snprintf(static_cast<char*>(values[0]), reinterpret_cast<std::size_t>(values[1]),
                      "Unresolved extern function 'cudaGraphSetConditional'");
        return invalid_ptx;
    }
    auto* key = new char;
    state.modules[key] = text;
    *module = reinterpret_cast<CUmodule>(key);
    return success;
}

Result cuModuleUnload(CUmodule module) {
    auto* key = reinterpret_cast<char*>(module);
    if (state.modules.erase(key) == 0) return invalid_handle;
    delete key;
    return success;
}

Result cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
    ENTER();
    auto it = state.modules.find(module);
    if (it == state.modules.end()) return invalid_handle;
    if (it->second.find(".entry " + std::string(name) + "(") == std::string::npos) return not_found;
    for (const Kernel& kernel : kernels())
        if (kernel.name == name) {
            state.found.insert(name);
            *function = reinterpret_cast<CUfunction>(const_cast<Kernel*>(&kernel));
            return success;
        }
    return not_found;
}

Result cuMemAlloc(DevicePointer* address, std::size_t bytes) {
    ENTER();
    void* memory = std::malloc(bytes);
    std::memset(memory, 0xa5, bytes);
    state.memory.insert(memory);
    *address = reinterpret_cast<DevicePointer>(memory);
    return success;
}

Result cuMemFree(DevicePointer address) {
    auto* memory = reinterpret_cast<void*>(address);
    if (state.memory.erase(memory) == 0) return invalid_value;
    std::free(memory);
    return success;
}

Result cuMemHostAlloc(void** memory, std::size_t bytes, unsigned flags) {
    ENTER();
    if ((flags & host_alloc_devicemap) == 0) return invalid_value;
    *memory = std::malloc(bytes);
    std::memset(*memory, 0xa5, bytes);
    state.host_memory.insert(*memory);
    return success;
}

Result cuMemFreeHost(void* memory) {
    if (state.host_memory.erase(memory) == 0) return invalid_value;
    std::free(memory);
    return success;
}

Result cuMemHostGetDevicePointer(DevicePointer* address, void* memory, unsigned) {
    ENTER();
    if (state.host_memory.count(memory) == 0) return invalid_value;
    *address = reinterpret_cast<DevicePointer>(memory);
    return success;
}

Result cuMemcpyHtoDAsync(DevicePointer to, const void* from, std::size_t bytes, CUstream) {
    ENTER();
    auto* start = static_cast<const char*>(from);
    std::vector<char> staged(start, start + bytes);
    return in_stream_order([=] {
        std::memcpy(reinterpret_cast<void*>(to), staged.data(), bytes);
        return success;
    });
}

Result cuMemcpyDtoHAsync(void* to, DevicePointer from, std::size_t bytes, CUstream) {
    ENTER();
    return in_stream_order([=] {
        std::memcpy(to, reinterpret_cast<void*>(from), bytes);
        return success;
    });
}

Result cuMemsetD32Async(DevicePointer to, unsigned value, std::size_t count, CUstream) {
    ENTER();
    return in_stream_order([=] {
        for (std::size_t i = 0; i < count; ++i) reinterpret_cast<unsigned*>(to)[i] = value;
        return success;
    });
}

Result cuPointerGetAttribute(void* out, int attribute, DevicePointer address) {
    if (attribute != pointer_attribute_memory_type) return invalid_value;
    auto* memory = reinterpret_cast<void*>(address);
    if (state.host_memory.count(memory) != 0) *static_cast<unsigned*>(out) = 1;
    else if (state.memory.count(memory) != 0) *static_cast<unsigned*>(out) = 2;
    else return invalid_value;
    return success;
}

Result cuGraphCreate(CUgraph* graph, unsigned flags) {
    ENTER();
    if (flags != 0) return invalid_value;
    auto made = std::make_shared<Graph>();
    *graph = reinterpret_cast<CUgraph>(made.get());
    state.graphs[made.get()] = made;
    return success;
}

Result cuGraphClone(CUgraph* copy, CUgraph original) {
    ENTER();
    if (!known(of(original))) return invalid_handle;
    if (contains(*of(original), NodeType::conditional)) return not_supported;
    auto made = clone(*of(original));
    *copy = reinterpret_cast<CUgraph>(made.get());
    state.graphs[made.get()] = made;
    return success;
}

Result cuGraphDestroy(CUgraph graph) { return state.graphs.erase(of(graph)) == 1 ? success : invalid_handle; }

Result cuGraphGetNodes(CUgraph graph, CUgraphNode* nodes, std::size_t* count) {
    ENTER();
    if (!known(of(graph))) return invalid_handle;
    auto& all = of(graph)->nodes;
    if (nodes != nullptr)
        for (std::size_t i = 0; i < *count && i < all.size(); ++i)
            nodes[i] = reinterpret_cast<CUgraphNode>(all[i].get());
    *count = all.size();
    return success;
}

Result cuGraphNodeGetType(CUgraphNode node, NodeType* type) {
    ENTER();
    *type = of(node)->type;
    return success;
}

Result cuGraphChildGraphNodeGetGraph(CUgraphNode node, CUgraph* graph) {
    ENTER();
    *graph = reinterpret_cast<CUgraph>(of(node)->child.get());
    return success;
}

Result cuGraphMemcpyNodeGetParams(CUgraphNode node, Memcpy3D* params) {
    ENTER();
    *params = of(node)->copy;
    return success;
}

Result cuGraphKernelNodeGetParams(CUgraphNode node, KernelParams* params) {
    *params = {};
    // Any pointer will do: it only comes back in cuFuncGetName.
    params->func = reinterpret_cast<CUfunction>(of(node));
    return success;
}

Result cuGraphKernelNodeGetAttribute(CUgraphNode node, int attribute, AttributeValue* value) {
    ENTER();
    if (attribute != attribute_cooperative) return invalid_value;
    value->cooperative = of(node)->cooperative;
    return success;
}

Result cuFuncGetName(const char** name, CUfunction function) {
    *name = reinterpret_cast<Node*>(function)->kernel.c_str();
    return success;
}

Result cuKernelGetName(const char**, CUkernel) { return invalid_value; }

Result fill(Node& node, const KernelParams& params) {
    auto* kernel = reinterpret_cast<const Kernel*>(params.func);
    bool one = params.grid_x * params.grid_y * params.grid_z == 1 &&
               params.block_x * params.block_y * params.block_z == 1;
    if (kernel == nullptr || !one || params.kern != nullptr || params.extra != nullptr)
        return invalid_value;
    if (params.ctx != the_context() && params.ctx != nullptr) return invalid_context;
    node.function = kernel;
    node.kernel = kernel->name;
    for (std::size_t i = 0; i < kernel->sizes.size(); ++i) {
        auto* value = static_cast<char*>(params.params[i]);
        node.arguments.emplace_back(value, value + kernel->sizes[i]);
    }
    return success;
}

Result fill(Node& node, const ChildGraphParams& params) {
    Graph* source = of(params.graph);
    if (!known(source)) return invalid_handle;
    if (params.ownership != 0) return invalid_value;
    if (contains(*source, NodeType::conditional) || contains(*source, NodeType::mem_alloc) ||
        contains(*source, NodeType::mem_free))
        return not_supported;
    node.child = clone(*source);
    return success;
}

Result fill(Node& node, ConditionalParams& params) {
    auto handle = state.handles.find(params.handle);
    if (handle == state.handles.end() || handle->second.used || handle->second.graph != node.owner)
        return invalid_value;
    if (params.ctx != the_context()) return invalid_context;
    bool is_switch = params.type == ConditionalType::switch_node;
    if (state.refuses.count("conditional") != 0 ||
        (is_switch && state.refuses.count("switch") != 0))
        return not_supported;
    unsigned most = params.type == ConditionalType::while_node ? 1 : is_switch ? 1000 : 2;
    if (state.version < 12080 && (is_switch || params.size != 1)) return invalid_value;
    if (params.size < 1 || params.size > most) return invalid_value;
    handle->second.used = true;
    node.handle = params.handle;
    node.condition = params.type;
    for (unsigned i = 0; i < params.size; ++i) {
        node.bodies.push_back(std::make_shared<Graph>());
        node.bodies.back()->body = true;
        node.body_handles.push_back(reinterpret_cast<CUgraph>(node.bodies.back().get()));
    }
    params.bodies = node.body_handles.data();
    return success;
}

Result cuGraphAddNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* dependencies,
                      const EdgeData* edges, std::size_t count, NodeParams* params) {
    ENTER();
    if (!known(of(graph)) || edges != nullptr) return invalid_value;
    if (params->reserved0[0] != 0 || params->reserved0[1] != 0 || params->reserved0[2] != 0 ||
        params->reserved2 != 0)
        return invalid_value;
    auto node = std::make_unique<Node>();
    node->owner = of(graph);
    node->type = params->type;
    for (std::size_t i = 0; i < count; ++i) {
        if (of(dependencies[i])->owner != of(graph)) return invalid_value;
        node->dependencies.push_back(of(dependencies[i]));
    }
    Result code = invalid_value;
    if (params->type == NodeType::kernel) code = fill(*node, params->kernel);
    if (params->type == NodeType::graph) code = fill(*node, params->graph);
    if (params->type == NodeType::conditional) code = fill(*node, params->conditional);
    if (code != success) return code;
    *out = reinterpret_cast<CUgraphNode>(node.get());
    of(graph)->nodes.push_back(std::move(node));
    return success;
}

Result cuGraphConditionalHandleCreate(ConditionalHandle* out, CUgraph graph, CUcontext context,
                                      unsigned initial, unsigned flags) {
    ENTER();
    if (!known(of(graph)) || flags != cond_assign_default) return invalid_value;
    if (context != the_context()) return invalid_context;
    *out = ++state.last_handle;
    state.handles[*out] = {of(graph), initial};
    return success;
}

// What a body must not hold, at any depth. Returns the node, or null.
Node* forbidden(Graph& graph, bool in_body) {
    for (auto& node : graph.nodes) {
        bool allowed = node->type == NodeType::kernel || node->type == NodeType::memcpy ||
                       node->type == NodeType::memset || node->type == NodeType::empty ||
                       node->type == NodeType::graph || node->type == NodeType::conditional;
        if (in_body && !allowed) return node.get();
        if (in_body && node->cooperative && state.version < 12060) return node.get();
        if (node->child != nullptr) {
            if (node->child->nodes.empty()) return node.get();
            if (Node* bad = forbidden(*node->child, in_body)) return bad;
        }
        for (auto& body : node->bodies) {
            if (body->nodes.empty()) return node.get();
            if (Node* bad = forbidden(*body, true)) return bad;
        }
    }
    return nullptr;
}

bool handle_in(const Graph& graph, const Graph* wanted) {
    if (&graph == wanted) return true;
    for (auto& node : graph.nodes)
        for (auto& body : node->bodies)
            if (handle_in(*body, wanted)) return true;
    return false;
}

Result cuGraphInstantiateWithParams(CUgraphExec* out, CUgraph graph, InstantiateParams* params) {
    ENTER();
    auto it = state.graphs.find(of(graph));
    if (it == state.graphs.end() || (params->flags & ~instantiate_node_priority) != 0)
        return invalid_value;
    Graph& root = *it->second;
    if (contains(root, NodeType::conditional) && root.instances > 0) return not_supported;
    if (Node* bad = forbidden(root, false)) {
        params->result = InstantiateResult::error;
        params->error_node = reinterpret_cast<CUgraphNode>(bad);
        return invalid_value;
    }
    for (auto& [id, handle] : state.handles)
        if (handle_in(root, handle.graph) && !handle.used) {
            params->result = InstantiateResult::handle_unused;
            return invalid_value;
        }
    params->result = InstantiateResult::success;
    ++root.instances;
    state.instantiated = it->second;
    auto* exec = new Exec{it->second};
    state.execs.insert(exec);
    *out = reinterpret_cast<CUgraphExec>(exec);
    return success;
}

Result cuGraphExecDestroy(CUgraphExec handle) {
    auto* exec = reinterpret_cast<Exec*>(handle);
    if (state.execs.erase(exec) == 0) return invalid_handle;
    --exec->graph->instances;
    delete exec;
    return success;
}

Result cuGraphUpload(CUgraphExec exec, CUstream) {
    ENTER();
    if (state.refuses.count("upload") != 0) return not_supported;
    return state.execs.count(reinterpret_cast<Exec*>(exec)) != 0 ? success : invalid_handle;
}

Result cuGraphLaunch(CUgraphExec handle, CUstream) {
    ENTER();
    auto* exec = reinterpret_cast<Exec*>(handle);
    if (state.execs.count(exec) == 0) return invalid_handle;
    if (state.refuses.count("launch") != 0 && contains(*exec->graph, NodeType::conditional))
        return not_supported;
    return in_stream_order([graph = exec->graph] { return execute(*graph); });
}

// For examples/cpp.
Result cuInit(unsigned) { return success; }
Result cuDeviceGet(int* device, int) {
    *device = 0;
    return success;
}
Result cuDevicePrimaryCtxRetain(CUcontext* context, int) {
    *context = the_context();
    return success;
}
Result cuCtxSetCurrent(CUcontext context) {
    state.context = context != nullptr;
    return success;
}
Result cuMemcpyDtoH(void* to, DevicePointer from, std::size_t bytes) {
    Result code = run_pending();
    std::memcpy(to, reinterpret_cast<void*>(from), bytes);
    return code;
}

struct Entry {
    int abi;
    void* address;
};

const std::map<std::string, Entry>& entries() {
    static const std::map<std::string, Entry> all = {
#define ENTRY(name, abi, args) \
    {#name, {abi, reinterpret_cast<void*>(static_cast<Result(*) args>(name))}},
        MORSE_ENGINE_DRIVER_CALLS(ENTRY)
        ENTRY(cuInit, 2000, (unsigned))
        ENTRY(cuDeviceGet, 2000, (int*, int))
        ENTRY(cuDevicePrimaryCtxRetain, 7000, (CUcontext*, int))
        ENTRY(cuCtxSetCurrent, 4000, (CUcontext))
        ENTRY(cuMemcpyDtoH, 3020, (void*, DevicePointer, std::size_t))
#undef ENTRY
    };
    return all;
}

}  // namespace
}  // namespace fake

extern "C" int cuGetProcAddress_v2(const char* name, void** address, int version, std::uint64_t flags,
                                   morse_engine::cuda::ProcAddressStatus* status) {
    using morse_engine::cuda::ProcAddressStatus;
    auto it = fake::entries().find(name);
    *address = nullptr;
    *status = ProcAddressStatus::symbol_not_found;
    if (flags != 0) return fake::invalid_value;
    if (it == fake::entries().end() || version > fake::state.version) return morse_engine::cuda::success;
    *status = ProcAddressStatus::version_not_sufficient;
    if (version < it->second.abi) return morse_engine::cuda::success;
    *status = ProcAddressStatus::success;
    *address = it->second.address;
    return morse_engine::cuda::success;
}
