// Every call of the CUDA driver API that this library makes: CALL(name, ABI version, arguments).
//
// The ABI version is the one of PFN_name_v<version> in cudaTypedefs.h. tests/support/abi_check.cpp compares
// the arguments with it.

#define MORSE_ENGINE_DRIVER_CALLS(CALL)                                                              \
    CALL(cuGetErrorName, 6000, (Result, const char**))                                               \
    CALL(cuGetErrorString, 6000, (Result, const char**))                                             \
    CALL(cuDriverGetVersion, 2020, (int*))                                                           \
    CALL(cuCtxGetCurrent, 4000, (CUcontext*))                                                        \
    CALL(cuCtxPushCurrent, 4000, (CUcontext))                                                        \
    CALL(cuCtxPopCurrent, 4000, (CUcontext*))                                                        \
    CALL(cuCtxSynchronize, 2000, ())                                                                 \
    CALL(cuStreamSynchronize, 2000, (CUstream))                                                      \
    CALL(cuModuleLoadDataEx, 2010, (CUmodule*, const void*, unsigned, JitOption*, void**))           \
    CALL(cuModuleUnload, 2000, (CUmodule))                                                           \
    CALL(cuModuleGetFunction, 2000, (CUfunction*, CUmodule, const char*))                            \
    CALL(cuMemAlloc, 3020, (DevicePointer*, std::size_t))                                            \
    CALL(cuMemFree, 3020, (DevicePointer))                                                           \
    CALL(cuMemHostAlloc, 2020, (void**, std::size_t, unsigned))                                      \
    CALL(cuMemFreeHost, 2000, (void*))                                                               \
    CALL(cuMemHostGetDevicePointer, 3020, (DevicePointer*, void*, unsigned))                         \
    CALL(cuMemcpyHtoDAsync, 3020, (DevicePointer, const void*, std::size_t, CUstream))               \
    CALL(cuMemcpyDtoHAsync, 3020, (void*, DevicePointer, std::size_t, CUstream))                     \
    CALL(cuMemsetD32Async, 3020, (DevicePointer, unsigned, std::size_t, CUstream))                   \
    CALL(cuPointerGetAttribute, 4000, (void*, int, DevicePointer))                                   \
    CALL(cuGraphCreate, 10000, (CUgraph*, unsigned))                                                 \
    CALL(cuGraphClone, 10000, (CUgraph*, CUgraph))                                                   \
    CALL(cuGraphDestroy, 10000, (CUgraph))                                                           \
    CALL(cuGraphGetNodes, 10000, (CUgraph, CUgraphNode*, std::size_t*))                              \
    CALL(cuGraphNodeGetType, 10000, (CUgraphNode, NodeType*))                                        \
    CALL(cuGraphChildGraphNodeGetGraph, 10000, (CUgraphNode, CUgraph*))                              \
    CALL(cuGraphMemcpyNodeGetParams, 10000, (CUgraphNode, Memcpy3D*))                                \
    CALL(cuGraphKernelNodeGetParams, 12000, (CUgraphNode, KernelParams*))                            \
    CALL(cuGraphKernelNodeGetAttribute, 11000, (CUgraphNode, int, AttributeValue*))                  \
    CALL(cuFuncGetName, 12030, (const char**, CUfunction))                                           \
    CALL(cuKernelGetName, 12030, (const char**, CUkernel))                                           \
    CALL(cuGraphAddNode, 12030,                                                                      \
         (CUgraphNode*, CUgraph, const CUgraphNode*, const EdgeData*, std::size_t, NodeParams*))     \
    CALL(cuGraphConditionalHandleCreate, 12030,                                                      \
         (ConditionalHandle*, CUgraph, CUcontext, unsigned, unsigned))                               \
    CALL(cuGraphInstantiateWithParams, 12000, (CUgraphExec*, CUgraph, InstantiateParams*))           \
    CALL(cuGraphExecDestroy, 10000, (CUgraphExec))                                                   \
    CALL(cuGraphUpload, 11010, (CUgraphExec, CUstream))                                              \
    CALL(cuGraphLaunch, 10000, (CUgraphExec, CUstream))
