// A whole sampling loop as one executable CUDA graph.
//
//     morse_engine::Driver driver;
//     morse_engine::LoopGraph loop(driver, dash, dot, step, 1000,
//                                  morse_engine::default_layout(driver));
//     loop.set_plan("-..-..", stream);
//     loop.launch(stream);                  // one launch, six steps
//
// `dash` and `dot` are captured CUDA graphs (a cudaGraph_t is a CUgraph). Each makes one step and adds
// 1 to *step, an int in device memory, which says where the run is; whoever starts a run sets it. For
// plans with free steps, ':', it also makes those directly behind its own and adds their number. The
// loop reads from device memory which of the two comes next, so another plan or another number of
// steps needs no new graph.
//
// The source files beside this folder, csrc/*.cpp, need a C++17 compiler and nothing of CUDA; the
// driver is loaded when a Driver is made. Errors: std::invalid_argument for what the caller passed,
// std::runtime_error for what the driver reported.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

typedef struct CUgraph_st* CUgraph;
typedef struct CUstream_st* CUstream;

namespace morse_engine {

namespace cuda {
class Api;
}

// The CUDA driver. Copies share it.
class Driver {
   public:
    // Throws std::runtime_error if `library` cannot be opened or is no CUDA driver of 12.0 or later.
    explicit Driver(const std::string& library = "libcuda.so.1");

    int version() const;  // 12080 is CUDA 12.8
    const std::string& library() const { return library_; }
    const cuda::Api& api() const { return *api_; }

   private:
    std::shared_ptr<const cuda::Api> api_;
    std::string library_;
};

// How the loop is built.
enum class Layout {
    switch_node,   // WHILE { SWITCH { Dash | Dot } }            CUDA 12.8
    two_ifs,       // WHILE { IF { Dash } IF { Dot } }           CUDA 12.4
    nested_loops,  // WHILE { WHILE { Dash } WHILE { Dot } }     CUDA 12.4
    unrolled,      // a chain of copies of Dash and Dot, without conditions; another plan is another graph
};

// "switch", "two_ifs", "nested", "unrolled"
const char* name(Layout layout);
// The layout of that name; throws std::invalid_argument that lists the names.
Layout layout_of(std::string_view name);
// switch_node with CUDA 12.8, two_ifs with 12.4; throws std::runtime_error below.
Layout default_layout(const Driver& driver);

// A node of a captured graph.
struct Node {
    int index;            // position in the graph; nodes of child graphs follow their node
    std::string type;     // "kernel", "memcpy", ...
    std::string kernel;   // its name where the driver tells (12.3), else ""
    bool cooperative;     // a kernel whose blocks wait for each other
    std::string refusal;  // why it must not be in a conditional body, else ""
};

// The nodes of a graph and of its child graphs.
std::vector<Node> census(const Driver& driver, CUgraph graph);

// The executable graph. Construction copies the captured graphs, but not the memory that they work
// on, which has to stay as long as this object.
//
// progress(), done() and cancel() may be called from any thread, at any time. The other functions
// belong to one thread at a time, and all launches of one object to one stream (or to streams that
// wait for each other): two runs of one loop cannot overlap.
class LoopGraph {
   public:
    // dot: may be null for plans without Dot steps.
    // step: device address of the step number, an int.
    // capacity: most steps of a plan.
    // Throws std::runtime_error that lists every node that cannot be in the loop.
    LoopGraph(const Driver& driver, CUgraph dash, CUgraph dot, std::int32_t* step, int capacity,
              Layout layout);
    // Waits for runs that are not done; 10 s for those that were cancelled, after which it leaves
    // all that a run may still use where it is.
    ~LoopGraph();
    LoopGraph(const LoopGraph&) = delete;
    LoopGraph& operator=(const LoopGraph&) = delete;

    // Write the plan, '-' for Dash, '.' for Dot and ':' for a free step, in stream order. May wait for
    // earlier work of the stream.
    void set_plan(std::string_view morse_code, CUstream stream);

    // Run from the step that *step says, up to and without step `until`; -1 is the plan's end.
    // Layout::unrolled waits for the stream, to know the present step, and builds the graph of these
    // steps where it has none yet: pieces of 64 steps at most, of which 8 are kept.
    void launch(CUstream stream, int until = -1);

    // The step number that the run launched last has reached; -1 as long as it has not begun, 0 if
    // nothing was launched.
    int progress() const;
    // Whether every run that was launched has ended.
    bool done() const;
    // End all runs launched so far, each within one step; later ones are not affected.
    // Layout::unrolled cannot skip steps: what was launched is made.
    void cancel();

    struct NodeCounts {
        int root;  // nodes that the loop adds around the steps, bodies included; unrolled: of the
                   // piece launched last
        int dash;  // nodes of one Dash step
        int dot;   // nodes of one Dot step
    };
    Layout layout() const;
    NodeCounts num_nodes() const;
    // Device memory that this object allocated, in bytes; the driver's own, for the graph, not included.
    std::size_t bytes() const;
    std::string describe() const;

   private:
    void launch_chain(CUstream stream, int until);

    struct Parts;
    std::unique_ptr<Parts> parts_;
};

}  // namespace morse_engine
