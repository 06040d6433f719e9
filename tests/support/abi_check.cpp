// Compiled by test_native.py where there is a cuda.h: the hand-written declarations agree with it.

#include <cuda.h>
#include <cudaTypedefs.h>

#include <cstddef>

#include "morse_engine/driver_calls.h"
#include "morse_engine/driver_types.h"

using namespace morse_engine::cuda;

#define SIZE(ours, theirs) static_assert(sizeof(ours) == sizeof(theirs) && alignof(ours) == alignof(theirs))
#define FIELD(ours, a, theirs, b)                            \
    static_assert(offsetof(ours, a) == offsetof(theirs, b) && \
                  sizeof(ours::a) == sizeof(theirs::b))
#define VALUE(ours, theirs) static_assert(static_cast<int>(ours) == static_cast<int>(theirs))

SIZE(NodeParams, CUgraphNodeParams);
static_assert(sizeof(NodeParams) == 256);
FIELD(NodeParams, type, CUgraphNodeParams, type);
FIELD(NodeParams, kernel, CUgraphNodeParams, kernel);
FIELD(NodeParams, graph.graph, CUgraphNodeParams, graph.graph);
FIELD(NodeParams, conditional, CUgraphNodeParams, conditional);
FIELD(NodeParams, reserved2, CUgraphNodeParams, reserved2);

SIZE(KernelParams, CUDA_KERNEL_NODE_PARAMS_v3);
SIZE(KernelParams, CUDA_KERNEL_NODE_PARAMS_v2);
FIELD(KernelParams, func, CUDA_KERNEL_NODE_PARAMS_v3, func);
FIELD(KernelParams, grid_x, CUDA_KERNEL_NODE_PARAMS_v3, gridDimX);
FIELD(KernelParams, block_x, CUDA_KERNEL_NODE_PARAMS_v3, blockDimX);
FIELD(KernelParams, shared_bytes, CUDA_KERNEL_NODE_PARAMS_v3, sharedMemBytes);
FIELD(KernelParams, params, CUDA_KERNEL_NODE_PARAMS_v3, kernelParams);
FIELD(KernelParams, extra, CUDA_KERNEL_NODE_PARAMS_v3, extra);
FIELD(KernelParams, kern, CUDA_KERNEL_NODE_PARAMS_v3, kern);
FIELD(KernelParams, ctx, CUDA_KERNEL_NODE_PARAMS_v3, ctx);

FIELD(ChildGraphParams, graph, CUDA_CHILD_GRAPH_NODE_PARAMS, graph);
#if CUDA_VERSION >= 13000
SIZE(ChildGraphParams, CUDA_CHILD_GRAPH_NODE_PARAMS);
FIELD(ChildGraphParams, ownership, CUDA_CHILD_GRAPH_NODE_PARAMS, ownership);
VALUE(0, CU_GRAPH_CHILD_GRAPH_OWNERSHIP_CLONE);
#endif

SIZE(ConditionalParams, CUDA_CONDITIONAL_NODE_PARAMS);
FIELD(ConditionalParams, handle, CUDA_CONDITIONAL_NODE_PARAMS, handle);
FIELD(ConditionalParams, type, CUDA_CONDITIONAL_NODE_PARAMS, type);
FIELD(ConditionalParams, size, CUDA_CONDITIONAL_NODE_PARAMS, size);
FIELD(ConditionalParams, bodies, CUDA_CONDITIONAL_NODE_PARAMS, phGraph_out);
FIELD(ConditionalParams, ctx, CUDA_CONDITIONAL_NODE_PARAMS, ctx);

SIZE(Memcpy3D, CUDA_MEMCPY3D);
FIELD(Memcpy3D, src_type, CUDA_MEMCPY3D, srcMemoryType);
FIELD(Memcpy3D, src_host, CUDA_MEMCPY3D, srcHost);
FIELD(Memcpy3D, src_device, CUDA_MEMCPY3D, srcDevice);
FIELD(Memcpy3D, src_array, CUDA_MEMCPY3D, srcArray);
FIELD(Memcpy3D, dst_type, CUDA_MEMCPY3D, dstMemoryType);
FIELD(Memcpy3D, dst_host, CUDA_MEMCPY3D, dstHost);
FIELD(Memcpy3D, dst_device, CUDA_MEMCPY3D, dstDevice);
FIELD(Memcpy3D, dst_array, CUDA_MEMCPY3D, dstArray);
FIELD(Memcpy3D, width, CUDA_MEMCPY3D, WidthInBytes);
FIELD(Memcpy3D, depth, CUDA_MEMCPY3D, Depth);

SIZE(InstantiateParams, CUDA_GRAPH_INSTANTIATE_PARAMS);
FIELD(InstantiateParams, flags, CUDA_GRAPH_INSTANTIATE_PARAMS, flags);
FIELD(InstantiateParams, upload_stream, CUDA_GRAPH_INSTANTIATE_PARAMS, hUploadStream);
FIELD(InstantiateParams, error_node, CUDA_GRAPH_INSTANTIATE_PARAMS, hErrNode_out);
FIELD(InstantiateParams, result, CUDA_GRAPH_INSTANTIATE_PARAMS, result_out);
SIZE(EdgeData, CUgraphEdgeData);
SIZE(AttributeValue, CUlaunchAttributeValue);
FIELD(AttributeValue, cooperative, CUlaunchAttributeValue, cooperative);
SIZE(ConditionalHandle, CUgraphConditionalHandle);
SIZE(DevicePointer, CUdeviceptr);
SIZE(Result, CUresult);

VALUE(success, CUDA_SUCCESS);
VALUE(error_not_initialized, CUDA_ERROR_NOT_INITIALIZED);
VALUE(ProcAddressStatus::success, CU_GET_PROC_ADDRESS_SUCCESS);
VALUE(ProcAddressStatus::symbol_not_found, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
VALUE(ProcAddressStatus::version_not_sufficient, CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
VALUE(NodeType::kernel, CU_GRAPH_NODE_TYPE_KERNEL);
VALUE(NodeType::memcpy, CU_GRAPH_NODE_TYPE_MEMCPY);
VALUE(NodeType::memset, CU_GRAPH_NODE_TYPE_MEMSET);
VALUE(NodeType::host, CU_GRAPH_NODE_TYPE_HOST);
VALUE(NodeType::graph, CU_GRAPH_NODE_TYPE_GRAPH);
VALUE(NodeType::empty, CU_GRAPH_NODE_TYPE_EMPTY);
VALUE(NodeType::wait_event, CU_GRAPH_NODE_TYPE_WAIT_EVENT);
VALUE(NodeType::event_record, CU_GRAPH_NODE_TYPE_EVENT_RECORD);
VALUE(NodeType::ext_semas_signal, CU_GRAPH_NODE_TYPE_EXT_SEMAS_SIGNAL);
VALUE(NodeType::ext_semas_wait, CU_GRAPH_NODE_TYPE_EXT_SEMAS_WAIT);
VALUE(NodeType::mem_alloc, CU_GRAPH_NODE_TYPE_MEM_ALLOC);
VALUE(NodeType::mem_free, CU_GRAPH_NODE_TYPE_MEM_FREE);
VALUE(NodeType::batch_mem_op, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP);
VALUE(NodeType::conditional, CU_GRAPH_NODE_TYPE_CONDITIONAL);
VALUE(ConditionalType::if_node, CU_GRAPH_COND_TYPE_IF);
VALUE(ConditionalType::while_node, CU_GRAPH_COND_TYPE_WHILE);
#if CUDA_VERSION >= 12080
VALUE(ConditionalType::switch_node, CU_GRAPH_COND_TYPE_SWITCH);
VALUE(InstantiateResult::handle_unused, CUDA_GRAPH_INSTANTIATE_CONDITIONAL_HANDLE_UNUSED);
#endif
SIZE(JitOption, CUjit_option);
VALUE(JitOption::error_log, CU_JIT_ERROR_LOG_BUFFER);
VALUE(JitOption::error_log_bytes, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES);
VALUE(MemoryType::host, CU_MEMORYTYPE_HOST);
VALUE(MemoryType::device, CU_MEMORYTYPE_DEVICE);
VALUE(MemoryType::array, CU_MEMORYTYPE_ARRAY);
VALUE(MemoryType::unified, CU_MEMORYTYPE_UNIFIED);
VALUE(InstantiateResult::error, CUDA_GRAPH_INSTANTIATE_ERROR);
VALUE(InstantiateResult::invalid_structure, CUDA_GRAPH_INSTANTIATE_INVALID_STRUCTURE);
VALUE(InstantiateResult::node_operation_not_supported,
      CUDA_GRAPH_INSTANTIATE_NODE_OPERATION_NOT_SUPPORTED);
VALUE(InstantiateResult::multiple_contexts, CUDA_GRAPH_INSTANTIATE_MULTIPLE_CTXS_NOT_SUPPORTED);
VALUE(cond_assign_default, CU_GRAPH_COND_ASSIGN_DEFAULT);
VALUE(instantiate_node_priority, CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY);
VALUE(host_alloc_portable, CU_MEMHOSTALLOC_PORTABLE);
VALUE(host_alloc_devicemap, CU_MEMHOSTALLOC_DEVICEMAP);
VALUE(attribute_cooperative, CU_LAUNCH_ATTRIBUTE_COOPERATIVE);
VALUE(pointer_attribute_memory_type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE);

// Every call exists in that ABI version, with as many arguments of the same sizes.
template <class Ours, class Theirs>
constexpr bool same_shape = false;
template <class... Ours, class... Theirs>
constexpr bool same_shape<Result(Ours...), CUresult (*)(Theirs...)> = [] {
    if constexpr (sizeof...(Ours) != sizeof...(Theirs)) return false;
    else return ((sizeof(Ours) == sizeof(Theirs)) && ...);
}();
#define SHAPE(name, abi, args) static_assert(same_shape<Result args, PFN_##name##_v##abi>, #name);
MORSE_ENGINE_DRIVER_CALLS(SHAPE)
