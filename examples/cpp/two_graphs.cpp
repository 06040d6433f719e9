// Two step graphs, made here of one tiny kernel each, and plans that run them with one launch.
//
//     include=$(python -c "import morse_engine; print(morse_engine.get_include())")
//     cd $include/..
//     g++ -std=c++17 -I$include -o two_graphs .../two_graphs.cpp
//         census.cpp compose.cpp driver.cpp loop_graph.cpp -ldl      (one line)
//     ./two_graphs -..-.
//
// A Dash step doubles x, a Dot step adds 1 to it. An application has captured its steps instead, and
// uses cuda.h or the runtime API where this file, which needs no CUDA toolkit, uses driver.h.

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#include "morse_engine/driver.h"
#include "morse_engine/loop_graph.h"

using namespace morse_engine;

static const char* const kernels = R"ptx(.version 7.0
.target sm_75
.address_size 64
.visible .entry double_it(.param .u64 x, .param .u64 step)
{
 .reg .f32 %f<3>;
 .reg .b32 %r<3>;
 .reg .b64 %rd<5>;
 ld.param.u64 %rd1, [x];
 ld.param.u64 %rd2, [step];
 cvta.to.global.u64 %rd3, %rd1;
 cvta.to.global.u64 %rd4, %rd2;
 ld.global.f32 %f1, [%rd3];
 add.f32 %f2, %f1, %f1;
 st.global.f32 [%rd3], %f2;
 ld.global.u32 %r1, [%rd4];
 add.s32 %r2, %r1, 1;
 st.global.u32 [%rd4], %r2;
 ret;
}
.visible .entry add_one(.param .u64 x, .param .u64 step)
{
 .reg .f32 %f<3>;
 .reg .b32 %r<3>;
 .reg .b64 %rd<5>;
 ld.param.u64 %rd1, [x];
 ld.param.u64 %rd2, [step];
 cvta.to.global.u64 %rd3, %rd1;
 cvta.to.global.u64 %rd4, %rd2;
 ld.global.f32 %f1, [%rd3];
 add.f32 %f2, %f1, 0f3F800000;
 st.global.f32 [%rd3], %f2;
 ld.global.u32 %r1, [%rd4];
 add.s32 %r2, %r1, 1;
 st.global.u32 [%rd4], %r2;
 ret;
}
)ptx";

// Calls a function of the driver that the library itself does not use.
template <class... Parameters, class... Args>
static void call(const cuda::Api& api, const char* name, int abi, cuda::Result (*)(Parameters...),
                 Args... args) {
    auto function = reinterpret_cast<cuda::Result (*)(Parameters...)>(api.find(name, abi));
    cuda::Result code = function != nullptr ? function(args...) : cuda::error_symbol_not_found;
    if (code != cuda::success) api.fail(name, abi, function != nullptr, code);
}

template <class... Parameters>
using Function = cuda::Result (*)(Parameters...);

// A graph of one kernel, name(x, step).
static CUgraph step_graph(const cuda::Api& api, CUmodule module, const char* name,
                          cuda::DevicePointer x, cuda::DevicePointer step) {
    void* values[] = {&x, &step};
    cuda::NodeParams params = {};
    params.type = cuda::NodeType::kernel;
    api.cuModuleGetFunction(&params.kernel.func, module, name);
    params.kernel.grid_x = params.kernel.grid_y = params.kernel.grid_z = 1;
    params.kernel.block_x = params.kernel.block_y = params.kernel.block_z = 1;
    params.kernel.params = values;
    params.kernel.ctx = api.current_context();
    CUgraph graph = nullptr;
    CUgraphNode node = nullptr;
    api.cuGraphCreate(&graph, 0);
    api.cuGraphAddNode(&node, graph, nullptr, nullptr, 0, &params);
    return graph;
}

static void run(const std::string& library, const std::string& plan) {
    Driver driver(library);
    const cuda::Api& api = driver.api();

    // What creating a first tensor does in a program with torch.
    int device = 0;
    CUcontext context = nullptr;
    call(api, "cuInit", 2000, Function<unsigned>{}, 0u);
    call(api, "cuDeviceGet", 2000, Function<int*, int>{}, &device, 0);
    call(api, "cuDevicePrimaryCtxRetain", 7000, Function<CUcontext*, int>{}, &context, device);
    call(api, "cuCtxSetCurrent", 4000, Function<CUcontext>{}, context);

    cuda::DevicePointer x = 0, step = 0;
    api.cuMemAlloc(&x, sizeof(float));
    api.cuMemAlloc(&step, sizeof(int));
    CUmodule module = nullptr;
    api.cuModuleLoadDataEx(&module, kernels, 0, nullptr, nullptr);
    CUgraph dash = step_graph(api, module, "double_it", x, step);
    CUgraph dot = step_graph(api, module, "add_one", x, step);

    {
        LoopGraph loop(driver, dash, dot, reinterpret_cast<std::int32_t*>(step), 1000,
                       default_layout(driver));
        std::printf("%s\n", loop.describe().c_str());
        for (const std::string& each : {plan, plan + plan}) {
            const CUstream stream = nullptr;
            api.cuMemsetD32Async(x, 0x3f800000, 1, stream);  // 1.0f
            api.cuMemsetD32Async(step, 0, 1, stream);
            loop.set_plan(each, stream);
            loop.launch(stream);
            api.cuStreamSynchronize(stream);
            float result = 0;
            call(api, "cuMemcpyDtoH", 3020, Function<void*, cuda::DevicePointer, std::size_t>{},
                 &result, x, sizeof(result));
            std::printf("%s: %d steps, done %d, x = %g\n", each.c_str(), loop.progress(),
                        static_cast<int>(loop.done()), result);
        }
    }
    api.cuGraphDestroy(dot);
    api.cuGraphDestroy(dash);
    api.cuModuleUnload(module);
    api.cuMemFree(step);
    api.cuMemFree(x);
}

int main(int argc, char** argv) {
    try {
        run(argc > 2 ? argv[2] : "libcuda.so.1", argc > 1 ? argv[1] : "-..-.");
        return EXIT_SUCCESS;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "two_graphs: %s\n", error.what());
        return EXIT_FAILURE;
    }
}
