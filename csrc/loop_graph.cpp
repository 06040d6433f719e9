#include "morse_engine/loop_graph.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <new>
#include <stdexcept>
#include <thread>
#include <utility>

#include "compose.h"
#include "executable.h"
#include "loop_kernels.ptx.h"
#include "loop_state.h"
#include "morse_engine/driver.h"

namespace morse_engine {
namespace {

using namespace cuda;

constexpr std::pair<Layout, const char*> layout_names[] = {
    {Layout::switch_node, "switch"},
    {Layout::two_ifs, "two_ifs"},
    {Layout::nested_loops, "nested"},
    {Layout::unrolled, "unrolled"},
};

void require_version(const Driver& driver, Layout layout) {
    int needed = layout == Layout::switch_node ? 12080 : 12040;
    if (driver.version() >= needed) return;
    throw std::runtime_error(std::string("layout \"") + name(layout) +
                             "\" needs a driver for CUDA " + version_text(needed) +
                             ", this one is for " + version_text(driver.version()) +
                             (driver.version() >= 12040
                                  ? "; use layout \"two_ifs\""
                                  : "; update it, or use backend=\"host\", which needs no "
                                    "conditional nodes"));
}

// One line for each node of a step that cannot be in the loop.
std::string refusals(const char* step, const std::vector<Node>& nodes) {
    std::string lines;
    if (nodes.empty()) lines += std::string("\n  ") + step + ": the graph is empty";
    for (const Node& node : nodes) {
        if (node.refusal.empty()) continue;
        lines += std::string("\n  ") + step + ": node " + std::to_string(node.index) + " of " +
                 std::to_string(nodes.size()) + ", " + node.type;
        if (!node.kernel.empty()) lines += " " + node.kernel;
        lines += ": " + node.refusal;
    }
    return lines;
}

constexpr auto patience = std::chrono::seconds(10);  // for the end of runs that were cancelled

// The words are written on one side and read on the other: no lock, no tearing.
int load(const int& word) { return __atomic_load_n(&word, __ATOMIC_ACQUIRE); }

}  // namespace

const char* name(Layout layout) {
    for (auto [value, text] : layout_names)
        if (value == layout) return text;
    throw std::invalid_argument("unknown layout " + std::to_string(static_cast<int>(layout)));
}

Layout layout_of(std::string_view text) {
    std::string names;
    for (auto [value, known] : layout_names) {
        if (text == known) return value;
        names += (names.empty() ? "\"" : ", \"") + std::string(known) + "\"";
    }
    throw std::invalid_argument("unknown layout \"" + std::string(text) + "\"; use one of " + names);
}

Layout default_layout(const Driver& driver) {
    if (driver.version() >= 12080) return Layout::switch_node;
    require_version(driver, Layout::two_ifs);
    return Layout::two_ifs;
}

// What a LoopGraph owns. Members that are not null are freed, so it may be destroyed half made.
struct LoopGraph::Parts {
    Driver driver;
    const Api& api;
    Layout layout;
    int capacity;
    std::vector<Node> dash_nodes, dot_nodes;

    CUcontext context = nullptr;
    CUmodule kernels = nullptr;
    DevicePointer memory = 0;  // LoopState and the kinds
    LoopWords* words = nullptr;
    LoopArgs args = {};
    std::unique_ptr<Executable> whole;
    Steps steps = {};  // own copies, for Layout::unrolled
    Chains chains;
    std::string plan;
    std::atomic<int> launches{0};

    Parts(const Driver& driver, Layout layout, int capacity)
        : driver(driver), api(this->driver.api()), layout(layout), capacity(capacity) {}

    ~Parts() {
        // Nothing can be reported from here: errors, as at the end of a process whose driver is gone
        // already, are left alone.
        if (context == nullptr) return;
        bool pushed = api.cuCtxPushCurrent.result(context) == success;
        if (words != nullptr && !wait()) {
            leave();
            return;
        }
        whole.reset();
        chains.clear();
        if (steps.dash != nullptr) api.cuGraphDestroy.result(steps.dash);
        if (steps.dot != nullptr) api.cuGraphDestroy.result(steps.dot);
        if (words != nullptr) api.cuMemFreeHost.result(words);
        if (memory != 0) api.cuMemFree.result(memory);
        if (kernels != nullptr) api.cuModuleUnload.result(kernels);
        if (pushed) api.cuCtxPopCurrent.result(&context);
    }

    std::size_t bytes() const { return sizeof(LoopState) + static_cast<std::size_t>(capacity); }

    // Whether all runs have ended. Those that were cancelled are not waited for without end.
    bool wait() const {
        if (!done() && load(words->cancel_through) < launches.load())
            api.cuCtxSynchronize.result();
        auto end = std::chrono::steady_clock::now() + patience;
        while (!done() && load(words->cancel_through) >= launches.load()) {
            if (std::chrono::steady_clock::now() > end) return false;
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        return true;
    }

    // A run that does not end may still use everything: nothing is freed.
    void leave() {
        new auto(std::move(whole));
        new auto(std::move(chains));
    }

    bool done() const { return load(words->finished) == launches.load(); }

    void load_kernels() {
        char log[4096] = "";
        JitOption options[] = {JitOption::error_log, JitOption::error_log_bytes};
        void* values[] = {log, reinterpret_cast<void*>(sizeof log)};
        const char* text = layout == Layout::unrolled ? chain_kernels_ptx : loop_kernels_ptx;
        Result code = api.cuModuleLoadDataEx.result(&kernels, text, 2, options, values);
        if (code == success) return;
        log[sizeof log - 1] = 0;
        throw std::runtime_error("cuModuleLoadDataEx: " + api.error_text(code) +
                                 (log[0] != 0 ? std::string("; the driver's compiler says: ") + log
                                              : ""));
    }

    void allocate(std::int32_t* step) {
        load_kernels();
        api.cuMemAlloc(&memory, bytes());
        api.cuMemsetD32Async(memory, 0, sizeof(LoopState) / 4, nullptr);

        void* host = nullptr;
        api.cuMemHostAlloc(&host, sizeof(LoopWords), host_alloc_portable | host_alloc_devicemap);
        words = new (host) LoopWords{};
        DevicePointer device_words = 0;
        api.cuMemHostGetDevicePointer(&device_words, host, 0);

        args.state = reinterpret_cast<LoopState*>(memory);
        args.kinds = reinterpret_cast<const unsigned char*>(memory + sizeof(LoopState));
        args.words = reinterpret_cast<LoopWords*>(device_words);
        args.step = step;
        args.capacity = capacity;
        // Launches come on other streams, which do not wait for this one.
        api.cuStreamSynchronize(nullptr);
    }

    Material material() const { return {api, context, kernels, args}; }

    // Where the run is; waits for what the stream has to do.
    int step_of(CUstream stream) const {
        std::int32_t step = 0;
        api.cuMemcpyDtoHAsync(&step, reinterpret_cast<DevicePointer>(args.step), sizeof step, stream);
        api.cuStreamSynchronize(stream);
        return step;
    }

};

LoopGraph::LoopGraph(const Driver& driver, CUgraph dash, CUgraph dot, std::int32_t* step,
                     int capacity, Layout layout) {
    if (dash == nullptr) throw std::invalid_argument("dash is null: pass a captured graph");
    if (step == nullptr)
        throw std::invalid_argument("step is null: pass the device address of the step number");
    if (capacity < 1)
        throw std::invalid_argument("capacity is " + std::to_string(capacity) +
                                    ": a plan has at least one step");
    require_version(driver, layout);
    CUcontext context = driver.api().current_context();

    parts_ = std::make_unique<Parts>(driver, layout, capacity);
    Parts& p = *parts_;
    p.dash_nodes = census(driver, dash);
    std::string refused = refusals("Dash", p.dash_nodes);
    if (dot != nullptr) {
        p.dot_nodes = census(driver, dot);
        refused += refusals("Dot", p.dot_nodes);
    }
    if (!refused.empty())
        throw std::runtime_error("these captured nodes cannot be in a loop on the device:" + refused +
                                 "\nUse backend=\"host\", or move what makes them out of the step");

    p.context = context;
    p.allocate(step);
    if (layout == Layout::unrolled) {
        p.api.cuGraphClone(&p.steps.dash, dash);
        if (dot != nullptr) p.api.cuGraphClone(&p.steps.dot, dot);
    } else {
        p.whole = std::make_unique<Executable>(p.material(), Steps{dash, dot}, layout);
    }
}

LoopGraph::~LoopGraph() = default;

void LoopGraph::set_plan(std::string_view morse_code, CUstream stream) {
    Parts& p = *parts_;
    if (morse_code.empty() || morse_code.size() > static_cast<std::size_t>(p.capacity))
        throw std::invalid_argument("a plan of " + std::to_string(morse_code.size()) +
                                    " steps: this loop holds 1 to " + std::to_string(p.capacity));
    std::vector<unsigned char> kinds;
    for (char symbol : morse_code) {
        if (symbol != '-' && symbol != '.' && symbol != ':')
            throw std::invalid_argument(std::string("'") + symbol + "' at step " +
                                        std::to_string(kinds.size()) +
                                        " of the plan: use '-' for Dash, '.' for Dot and ':' for a "
                                        "free step");
        if (symbol == ':' && kinds.empty())
            throw std::invalid_argument("the plan begins with a free step, which is made with the "
                                        "Dash or Dot step before it");
        if (symbol == '.' && p.dot_nodes.empty())
            throw std::invalid_argument("step " + std::to_string(kinds.size()) +
                                        " of the plan is a Dot step, but this loop was made "
                                        "without a Dot graph");
        kinds.push_back(symbol == '-' ? 0 : symbol == '.' ? 1 : 2);
    }
    // The source is pageable memory: the driver has read it when the call returns.
    p.api.cuMemcpyHtoDAsync(p.memory + sizeof(LoopState), kinds.data(), kinds.size(), stream);
    p.api.cuMemsetD32Async(p.memory + offsetof(LoopState, num_steps),
                           static_cast<unsigned>(kinds.size()), 1, stream);
    p.plan = morse_code;
}

void LoopGraph::launch(CUstream stream, int until) {
    Parts& p = *parts_;
    if (p.plan.empty()) throw std::invalid_argument("there is no plan: call set_plan() first");
    if (until < -1)
        throw std::invalid_argument("until is " + std::to_string(until) +
                                    ": use a step number, or -1 for the plan's end");
    if (p.layout == Layout::unrolled) return launch_chain(stream, until);
    int end = until == -1 ? INT_MAX : until;
    p.api.cuMemsetD32Async(p.memory + offsetof(LoopState, until), static_cast<unsigned>(end), 1,
                           stream);
    ++p.launches;  // before the launch: the run may end, or be cancelled, before the call returns
    try {
        p.whole->launch(stream);
    } catch (...) {
        --p.launches;
        throw;
    }
}

void LoopGraph::launch_chain(CUstream stream, int until) {
    Parts& p = *parts_;
    int begin = p.step_of(stream);
    // All earlier runs have ended now: none of these is in use.
    p.chains.forget();
    int size = static_cast<int>(p.plan.size());
    auto chain = p.chains.make(p.material(), p.steps, p.plan, begin,
                               until == -1 ? size : std::min(until, size));
    ++p.launches;
    bool begun = false;
    try {
        for (auto& piece : chain) {
            piece->launch(stream);
            begun = true;
        }
    } catch (...) {
        if (!begun) --p.launches;
        throw;
    }
}

int LoopGraph::progress() const {
    // The launches first: a run that is launched between the two reads must not be taken for begun.
    auto launched = static_cast<unsigned>(parts_->launches.load());
    unsigned long long word = __atomic_load_n(&parts_->words->progress, __ATOMIC_ACQUIRE);
    return word >> 32 >= launched ? static_cast<int>(word & 0xffffffffu) : -1;
}

bool LoopGraph::done() const { return parts_->done(); }

void LoopGraph::cancel() {
    Parts& p = *parts_;
    // Another thread may cancel too; the later number stays.
    int launched = p.launches.load();
    int before = load(p.words->cancel_through);
    while (before < launched &&
           !__atomic_compare_exchange_n(&p.words->cancel_through, &before, launched, false,
                                        __ATOMIC_RELEASE, __ATOMIC_ACQUIRE)) {
    }
}

Layout LoopGraph::layout() const { return parts_->layout; }

LoopGraph::NodeCounts LoopGraph::num_nodes() const {
    const Parts& p = *parts_;
    const Executable* made = p.whole != nullptr ? p.whole.get() : p.chains.last();
    return {made != nullptr ? made->num_nodes() : 0, static_cast<int>(p.dash_nodes.size()),
            static_cast<int>(p.dot_nodes.size())};
}

std::size_t LoopGraph::bytes() const { return parts_->bytes(); }

std::string LoopGraph::describe() const {
    NodeCounts nodes = num_nodes();
    return std::string("layout \"") + name(layout()) + "\", driver for CUDA " +
           version_text(parts_->driver.version()) + ", " + std::to_string(nodes.root) +
           " nodes around a Dash step of " + std::to_string(nodes.dash) +
           (nodes.dot > 0 ? " and a Dot step of " + std::to_string(nodes.dot) : "") +
           " nodes, plans of up to " + std::to_string(parts_->capacity) + " steps, " +
           std::to_string(bytes()) + " bytes of device memory";
}

}  // namespace morse_engine
