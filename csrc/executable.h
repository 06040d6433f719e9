// The graph of a loop, or of a chain of steps, ready to be launched.

#pragma once

#include <list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "compose.h"

namespace morse_engine {

class Executable {
   public:
    // Composes and instantiates; arguments as for compose(). Throws std::runtime_error that says at
    // which node, as far as the driver tells.
    Executable(const Material& material, Steps steps, Layout layout, Piece piece = {});
    // It must not be running.
    ~Executable();
    Executable(const Executable&) = delete;
    Executable& operator=(const Executable&) = delete;

    void launch(CUstream stream) const { api_.cuGraphLaunch(exec_, stream); }
    int num_nodes() const { return composition_.num_nodes; }

   private:
    void instantiate();

    const cuda::Api& api_;
    Composition composition_;
    CUgraphExec exec_ = nullptr;
};

// The pieces that unrolled runs are made of, by their calls: those of earlier runs serve again.
class Chains {
   public:
    using Pieces = std::vector<std::shared_ptr<Executable>>;

    // A run of the steps of `plan` from `begin` up to, and without, `end`.
    Pieces make(const Material& material, Steps steps, std::string_view plan, int begin, int end);
    // All but the last used ones; none must be running.
    void forget();
    void clear() { kept_.clear(); }
    // The one used last, or null.
    const Executable* last() const { return kept_.empty() ? nullptr : kept_.front().second.get(); }

   private:
    std::shared_ptr<Executable> find(const Material& material, Steps steps, Piece piece);

    std::list<std::pair<std::string, std::shared_ptr<Executable>>> kept_;  // the last used first
};

}  // namespace morse_engine
