#include "morse_engine/driver.h"

#include <dlfcn.h>

#include "morse_engine/loop_graph.h"

namespace morse_engine {
namespace cuda {

std::string version_text(int version) {
    return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

Api::Api(const std::string& library) {
    // Never closed: a CUDA driver has threads of its own and is not made to be unloaded.
    void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) throw std::runtime_error(std::string("no CUDA driver: ") + dlerror());

    get_ = reinterpret_cast<GetProcAddress>(dlsym(handle, "cuGetProcAddress_v2"));
    if (get_ == nullptr)
        throw std::runtime_error("no CUDA driver: " + library +
                                 " has no cuGetProcAddress_v2; it is older than CUDA 12.0 or not "
                                 "a CUDA driver. Install a driver for CUDA 12.4 or newer");
    auto load = [this](auto& call) {
        call.function_ = reinterpret_cast<decltype(call.function_)>(find(call.name_, call.abi_));
    };
#define MORSE_ENGINE_LOAD(name, abi, args) load(name);
    MORSE_ENGINE_DRIVER_CALLS(MORSE_ENGINE_LOAD)
#undef MORSE_ENGINE_LOAD
    cuDriverGetVersion(&version_);
}

void* Api::find(const char* name, int abi) const {
    void* address = nullptr;
    ProcAddressStatus status = ProcAddressStatus::symbol_not_found;
    Result code = get_(name, &address, abi, 0, &status);
    return code == success && status == ProcAddressStatus::success ? address : nullptr;
}

std::string Api::error_text(Result result) const {
    const char* name = nullptr;
    const char* text = nullptr;
    if (cuGetErrorName.result(result, &name) != success || name == nullptr)
        return "error " + std::to_string(result);
    if (cuGetErrorString.result(result, &text) != success || text == nullptr) return name;
    return std::string(name) + " (" + text + ")";
}

void Api::fail(const char* call, int abi, bool exists, Result result) const {
    if (!exists)
        throw std::runtime_error(std::string(call) + ": the CUDA driver, " +
                                 version_text(version_) + ", does not have it in the form of " +
                                 version_text(abi) + "; update the driver");
    throw std::runtime_error(std::string(call) + ": " + error_text(result));
}

CUcontext Api::current_context() const {
    CUcontext context = nullptr;
    Result code = cuCtxGetCurrent.result(&context);
    if (code != success && code != error_not_initialized)
        fail("cuCtxGetCurrent", 4000, cuCtxGetCurrent.exists(), code);
    if (context == nullptr)
        throw std::runtime_error(
            "no CUDA context is current on this thread: create a tensor on the GPU first");
    return context;
}

}  // namespace cuda

Driver::Driver(const std::string& library)
    : api_(std::make_shared<const cuda::Api>(library)), library_(library) {}

int Driver::version() const { return api_->version(); }

}  // namespace morse_engine
