// What a captured graph consists of, and which of it a conditional body cannot hold.

#include "morse_engine/driver.h"
#include "morse_engine/loop_graph.h"

namespace morse_engine {
namespace {

using namespace cuda;

constexpr const char* type_names[] = {
    "kernel",           "memcpy",       "memset",
    "host callback",    "child graph",  "empty",
    "event wait",       "event record", "external semaphore signal",
    "external semaphore wait", "memory allocation", "memory free",
    "batched memory operation", "conditional",
};

std::string type_name(NodeType type) {
    auto index = static_cast<std::size_t>(type);
    if (index < std::size(type_names)) return type_names[index];
    return "unknown type " + std::to_string(static_cast<int>(type));
}

class Census {
   public:
    explicit Census(const Api& api) : api_(api) {}

    // Appends the nodes of `graph`; returns how many it has itself.
    std::size_t add(CUgraph graph) {
        std::size_t count = 0;
        api_.cuGraphGetNodes(graph, nullptr, &count);
        std::vector<CUgraphNode> nodes(count);
        if (count > 0) api_.cuGraphGetNodes(graph, nodes.data(), &count);
        for (CUgraphNode node : nodes) add(node);
        return count;
    }

    std::vector<Node> found;

   private:
    void add(CUgraphNode node) {
        NodeType type = NodeType::empty;
        api_.cuGraphNodeGetType(node, &type);
        std::size_t index = found.size();
        found.push_back({static_cast<int>(index), type_name(type), "", false, ""});
        switch (type) {
            case NodeType::kernel:
                inspect_kernel(node, found[index]);
                break;
            case NodeType::memcpy:
                found[index].refusal = refuse_memcpy(node);
                break;
            case NodeType::graph: {
                CUgraph child = nullptr;
                api_.cuGraphChildGraphNodeGetGraph(node, &child);
                if (add(child) == 0) found[index].refusal = "an empty child graph cannot be run";
                break;
            }
            case NodeType::memset:
            case NodeType::empty:
                break;
            case NodeType::mem_alloc:
            case NodeType::mem_free:
                found[index].refusal =
                    "memory cannot be allocated or freed inside a loop; use torch's native "
                    "allocator, not cudaMallocAsync";
                break;
            case NodeType::conditional:
                found[index].refusal = "a graph with conditional nodes cannot be copied";
                break;
            default:
                found[index].refusal = "not allowed in the body of a conditional node";
        }
    }

    void inspect_kernel(CUgraphNode node, Node& out) {
        KernelParams params = {};
        const char* kernel = nullptr;
        // Only for messages, so an older driver or an unknown kernel is no error.
        if (api_.cuGraphKernelNodeGetParams.result(node, &params) == success &&
            (params.func != nullptr ? api_.cuFuncGetName.result(&kernel, params.func)
                                    : api_.cuKernelGetName.result(&kernel, params.kern)) == success &&
            kernel != nullptr)
            out.kernel = kernel;
        AttributeValue value = {};
        api_.cuGraphKernelNodeGetAttribute(node, attribute_cooperative, &value);
        out.cooperative = value.cooperative != 0;
        if (out.cooperative && api_.version() < 12060)
            out.refusal = "cooperative kernels in a loop need a driver for CUDA 12.6, this one is " +
                          version_text(api_.version());
    }

    // Device memory and pinned host memory are allowed, arrays and pageable memory are not.
    std::string refuse_memcpy(CUgraphNode node) {
        Memcpy3D copy = {};
        api_.cuGraphMemcpyNodeGetParams(node, &copy);
        std::string source = refuse_memory(copy.src_type, copy.src_host, copy.src_device);
        std::string target = refuse_memory(copy.dst_type, copy.dst_host, copy.dst_device);
        if (!source.empty()) return "copies from " + source;
        if (!target.empty()) return "copies to " + target;
        return "";
    }

    std::string refuse_memory(MemoryType type, const void* host, DevicePointer device) {
        if (type == MemoryType::array) return "a CUDA array";
        if (type == MemoryType::device) return "";
        DevicePointer address =
            type == MemoryType::host ? reinterpret_cast<DevicePointer>(host) : device;
        // The driver knows pinned memory; pageable memory is an unknown address to it.
        unsigned known = 0;
        Result code = api_.cuPointerGetAttribute.result(&known, pointer_attribute_memory_type, address);
        return code == success ? "" : "pageable host memory";
    }

    const Api& api_;
};

}  // namespace

std::vector<Node> census(const Driver& driver, CUgraph graph) {
    Census census(driver.api());
    census.add(graph);
    return census.found;
}

}  // namespace morse_engine
