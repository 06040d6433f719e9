#include "executable.h"

#include <algorithm>
#include <stdexcept>

namespace morse_engine {

using namespace cuda;

namespace {

constexpr std::size_t most_calls = 64;  // of a piece
constexpr std::size_t most_kept = 8;    // pieces

std::string instantiate_error(const Api& api, Result code, const InstantiateParams& params) {
    constexpr const char* reasons[] = {"",
                                       "see the error",
                                       "invalid structure",
                                       "operation not supported",
                                       "several contexts",
                                       "a conditional handle has no node"};
    auto reason = static_cast<std::size_t>(params.result);
    std::string text = "cuGraphInstantiateWithParams: " + api.error_text(code) + ", result " +
                       std::to_string(reason);
    if (reason > 0 && reason < std::size(reasons)) text += std::string(" (") + reasons[reason] + ")";
    NodeType type = NodeType::empty;
    if (params.error_node != nullptr &&
        api.cuGraphNodeGetType.result(params.error_node, &type) == success)
        text += ", at a node of type " + std::to_string(static_cast<int>(type));
    return text + ". With CUDA_LOG_FILE=stderr in the environment, recent drivers say why; "
                  "backend=\"host\" needs no conditional nodes";
}

}  // namespace

Executable::Executable(const Material& material, Steps steps, Layout layout, Piece piece)
    : api_(material.api), composition_(compose(material, steps, layout, piece)) {
    try {
        instantiate();
    } catch (...) {
        if (exec_ != nullptr) api_.cuGraphExecDestroy.result(exec_);
        api_.cuGraphDestroy.result(composition_.root);
        throw;
    }
}

void Executable::instantiate() {
    InstantiateParams params = {};
    params.flags = instantiate_node_priority;
    Result code = api_.cuGraphInstantiateWithParams.result(&exec_, composition_.root, &params);
    if (code != success || params.result != InstantiateResult::success)
        throw std::runtime_error(instantiate_error(api_, code, params));
    // The first launch would do it as well: a driver that refuses it for this graph loses nothing.
    // Launches come on other streams, which do not wait for this one.
    if (api_.cuGraphUpload.result(exec_, nullptr) == success) api_.cuStreamSynchronize(nullptr);
}

Executable::~Executable() {
    api_.cuGraphExecDestroy.result(exec_);
    api_.cuGraphDestroy.result(composition_.root);
}

Chains::Pieces Chains::make(const Material& material, Steps steps, std::string_view plan, int begin,
                            int end) {
    std::string calls;
    if (begin >= 0 && begin < end && plan[begin] != ':')  // else nothing is made, as in a loop
        for (char symbol : plan.substr(begin, end - begin))
            if (symbol != ':') calls += symbol;  // made by the step before it
    Pieces made;
    std::size_t at = 0;
    do {
        std::string_view some = std::string_view(calls).substr(at, most_calls);
        bool first = at == 0;
        at += some.size();
        made.push_back(find(material, steps, {some, first, at == calls.size()}));
    } while (at < calls.size());
    return made;
}

std::shared_ptr<Executable> Chains::find(const Material& material, Steps steps, Piece piece) {
    std::string name =
        (piece.first ? "^" : "") + std::string(piece.calls) + (piece.last ? "$" : "");
    auto it = std::find_if(kept_.begin(), kept_.end(), [&](auto& p) { return p.first == name; });
    if (it == kept_.end())
        kept_.emplace_front(
            name, std::make_shared<Executable>(material, steps, Layout::unrolled, piece));
    else
        kept_.splice(kept_.begin(), kept_, it);
    return kept_.front().second;
}

void Chains::forget() {
    while (kept_.size() > most_kept) kept_.pop_back();
}

}  // namespace morse_engine
