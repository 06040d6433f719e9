// The CUDA driver API, loaded when it is needed.
//
// Nothing here links to CUDA: the library is opened by name, and every call is asked for by its ABI
// version. A call that the driver does not have is an error when it is made, not before.
// Programs that include cuda.h do not need this file; <morse_engine/loop_graph.h> stands without it.

#pragma once

#include <stdexcept>
#include <string>

#include "morse_engine/driver_calls.h"
#include "morse_engine/driver_types.h"

namespace morse_engine::cuda {

class Api;

// One call. `api.cuGraphCreate(&graph, 0)` throws what the driver reports as an error;
// `api.cuGraphCreate.result(&graph, 0)` returns it.
template <class... Args>
class Call {
   public:
    Call(const Api* api, const char* name, int abi) : api_(api), name_(name), abi_(abi) {}

    void operator()(Args... args) const;
    Result result(Args... args) const {
        return function_ != nullptr ? function_(args...) : error_symbol_not_found;
    }
    bool exists() const { return function_ != nullptr; }

   private:
    friend class Api;
    const Api* api_;
    const char* name_;
    int abi_;
    Result (*function_)(Args...) = nullptr;
};

template <class Signature>
struct CallOf;
template <class... Args>
struct CallOf<Result(Args...)> {
    using type = Call<Args...>;
};

// All calls of driver_calls.h. Throws std::runtime_error if `library` is no CUDA driver.
class Api {
   public:
    explicit Api(const std::string& library);
    Api(const Api&) = delete;
    Api& operator=(const Api&) = delete;

    int version() const { return version_; }  // 12080 is 12.8
    // The address of a call that is not in driver_calls.h; null if the driver does not have it.
    void* find(const char* name, int abi) const;
    // "CUDA_ERROR_INVALID_VALUE (invalid argument)"
    std::string error_text(Result result) const;
    [[noreturn]] void fail(const char* call, int abi, bool exists, Result result) const;
    // The context that is current on this thread; throws where there is none.
    CUcontext current_context() const;

#define MORSE_ENGINE_DECLARE(name, abi, args) CallOf<Result args>::type name{this, #name, abi};
    MORSE_ENGINE_DRIVER_CALLS(MORSE_ENGINE_DECLARE)
#undef MORSE_ENGINE_DECLARE

   private:
    using GetProcAddress = Result (*)(const char*, void**, int, std::uint64_t, ProcAddressStatus*);
    GetProcAddress get_ = nullptr;
    int version_ = 0;
};

template <class... Args>
void Call<Args...>::operator()(Args... args) const {
    if (Result code = result(args...); code != success) api_->fail(name_, abi_, exists(), code);
}

// "12.8" of 12080
std::string version_text(int version);

}  // namespace morse_engine::cuda
