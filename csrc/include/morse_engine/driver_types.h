// The few types of the CUDA driver API that this library uses, written by hand.
//
// They let it be built without the CUDA toolkit and run with every driver from 12.4 on. Names differ
// from those of cuda.h, so that both may be included; handles are the same types. What must agree
// with cuda.h is the layout: tests/support/abi_check.cpp compares sizes, offsets and values with it.

#pragma once

#include <cstddef>
#include <cstdint>

typedef struct CUctx_st* CUcontext;
typedef struct CUmod_st* CUmodule;
typedef struct CUfunc_st* CUfunction;
typedef struct CUkern_st* CUkernel;
typedef struct CUarray_st* CUarray;
typedef struct CUstream_st* CUstream;
typedef struct CUgraph_st* CUgraph;
typedef struct CUgraphNode_st* CUgraphNode;
typedef struct CUgraphExec_st* CUgraphExec;

namespace morse_engine::cuda {

using Result = int;  // CUresult
using DevicePointer = unsigned long long;
using ConditionalHandle = unsigned long long;

constexpr Result success = 0;
constexpr Result error_not_initialized = 3;
constexpr Result error_symbol_not_found = 500;

enum class ProcAddressStatus : int { success = 0, symbol_not_found = 1, version_not_sufficient = 2 };

enum class NodeType : int {
    kernel = 0,
    memcpy = 1,
    memset = 2,
    host = 3,
    graph = 4,
    empty = 5,
    wait_event = 6,
    event_record = 7,
    ext_semas_signal = 8,
    ext_semas_wait = 9,
    mem_alloc = 10,
    mem_free = 11,
    batch_mem_op = 12,
    conditional = 13,
};

enum class ConditionalType : int { if_node = 0, while_node = 1, switch_node = 2 };
enum class JitOption : int { error_log = 5, error_log_bytes = 6 };
enum class MemoryType : int { host = 1, device = 2, array = 3, unified = 4 };
enum class InstantiateResult : int {
    success = 0,
    error = 1,
    invalid_structure = 2,
    node_operation_not_supported = 3,
    multiple_contexts = 4,
    handle_unused = 5,
};

constexpr unsigned cond_assign_default = 1;            // CU_GRAPH_COND_ASSIGN_DEFAULT
constexpr std::uint64_t instantiate_node_priority = 8;  // ..._FLAG_USE_NODE_PRIORITY
constexpr unsigned host_alloc_portable = 1;             // CU_MEMHOSTALLOC_PORTABLE
constexpr unsigned host_alloc_devicemap = 2;            // CU_MEMHOSTALLOC_DEVICEMAP
constexpr int attribute_cooperative = 2;                // CU_LAUNCH_ATTRIBUTE_COOPERATIVE
constexpr int pointer_attribute_memory_type = 2;        // CU_POINTER_ATTRIBUTE_MEMORY_TYPE

// CUDA_KERNEL_NODE_PARAMS_v2 and _v3
struct KernelParams {
    CUfunction func;
    unsigned grid_x, grid_y, grid_z;
    unsigned block_x, block_y, block_z;
    unsigned shared_bytes;
    void** params;
    void** extra;
    CUkernel kern;
    CUcontext ctx;
};

// CUDA_MEMCPY3D_v2
struct Memcpy3D {
    std::size_t src_x, src_y, src_z, src_lod;
    MemoryType src_type;
    const void* src_host;
    DevicePointer src_device;
    CUarray src_array;
    void* reserved0;
    std::size_t src_pitch, src_height;
    std::size_t dst_x, dst_y, dst_z, dst_lod;
    MemoryType dst_type;
    void* dst_host;
    DevicePointer dst_device;
    CUarray dst_array;
    void* reserved1;
    std::size_t dst_pitch, dst_height;
    std::size_t width, height, depth;
};

// CUDA_CHILD_GRAPH_NODE_PARAMS; ownership (0: clone) is read by drivers from 13.0 on.
struct ChildGraphParams {
    CUgraph graph;
    int ownership;
};

// CUDA_CONDITIONAL_NODE_PARAMS
struct ConditionalParams {
    ConditionalHandle handle;
    ConditionalType type;
    unsigned size;
    CUgraph* bodies;  // out: owned by the driver, valid as long as the node
    CUcontext ctx;
};

// CUgraphNodeParams: 256 bytes; zero what is not used (`NodeParams p = {};`).
struct NodeParams {
    NodeType type;
    int reserved0[3];
    union {
        long long reserved1[29];
        KernelParams kernel;
        ChildGraphParams graph;
        ConditionalParams conditional;
    };
    long long reserved2;
};

// CUgraphEdgeData
struct EdgeData {
    unsigned char from_port, to_port, type, reserved[5];
};

// CUDA_GRAPH_INSTANTIATE_PARAMS
struct InstantiateParams {
    std::uint64_t flags;
    CUstream upload_stream;
    CUgraphNode error_node;
    InstantiateResult result;
};

// CUlaunchAttributeValue
union AttributeValue {
    char bytes[64];
    int cooperative;
    std::uint64_t alignment;
};

}  // namespace morse_engine::cuda
