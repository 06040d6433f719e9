// The Python module morse_engine._native. Handles and addresses are integers, as torch gives them.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "morse_engine/loop_graph.h"

namespace py = pybind11;
using namespace morse_engine;

namespace {

template <class Handle>
Handle handle(std::uintptr_t value) {
    return reinterpret_cast<Handle>(value);
}

// Waiting for a run must not stop other Python threads.
struct Delete {
    void operator()(LoopGraph* loop) const {
        py::gil_scoped_release release;
        delete loop;
    }
};

using NoGil = py::call_guard<py::gil_scoped_release>;

}  // namespace

PYBIND11_MODULE(_native, m) {
    m.doc() = "Two captured CUDA graphs as one loop on the device; see morse_engine/loop_graph.h.";

    py::class_<Driver>(m, "Driver", "The CUDA driver. RuntimeError if `library` is none.")
        .def(py::init<const std::string&>(), py::arg("library") = "libcuda.so.1", NoGil())
        .def("version", &Driver::version, "12080 is CUDA 12.8.")
        .def_property_readonly("library", &Driver::library);

    py::class_<Node>(m, "Node", "A node of a captured graph.")
        .def_readonly("index", &Node::index)
        .def_readonly("type", &Node::type)
        .def_readonly("kernel", &Node::kernel)
        .def_readonly("cooperative", &Node::cooperative)
        .def_readonly("refusal", &Node::refusal)
        .def("__repr__", [](const Node& node) {
            return "<Node " + std::to_string(node.index) + " " + node.type +
                   (node.kernel.empty() ? "" : " " + node.kernel) +
                   (node.refusal.empty() ? "" : ": " + node.refusal) + ">";
        });

    m.def(
        "census",
        [](const Driver& driver, std::uintptr_t graph) {
            py::gil_scoped_release release;
            return census(driver, handle<CUgraph>(graph));
        },
        py::arg("driver"), py::arg("graph"), "The nodes of a captured graph and its child graphs.");
    m.def(
        "default_layout", [](const Driver& driver) { return name(default_layout(driver)); },
        py::arg("driver"), "\"switch\" with CUDA 12.8, \"two_ifs\" with 12.4; RuntimeError below.");

    py::class_<LoopGraph, std::unique_ptr<LoopGraph, Delete>>(
        m, "LoopGraph",
        "A sampling loop as one executable graph.\n\n"
        "dash, dot: raw_cuda_graph() of torch.cuda.CUDAGraph(keep_graph=True); dot 0 for plans\n"
        "without Dot. step: data_ptr() of an int32 on the GPU, to which each graph adds 1.\n"
        "capacity: most steps of a plan. layout: \"switch\", \"two_ifs\", \"nested\", \"unrolled\"\n"
        "or None for default_layout(). Keep both graphs and their tensors as long as this object.\n"
        "ValueError for arguments, RuntimeError for what the driver or the graphs do not allow.")
        .def(py::init([](const Driver& driver, std::uintptr_t dash, std::uintptr_t dot,
                         std::uintptr_t step, int capacity, std::optional<std::string> layout) {
                 py::gil_scoped_release release;
                 return new LoopGraph(driver, handle<CUgraph>(dash), handle<CUgraph>(dot),
                                      handle<std::int32_t*>(step), capacity,
                                      layout ? layout_of(*layout) : default_layout(driver));
             }),
             py::arg("driver"), py::arg("dash"), py::arg("dot"), py::arg("step"), py::arg("capacity"),
             py::arg("layout") = py::none())
        .def(
            "set_plan",
            [](LoopGraph& loop, const std::string& plan, std::uintptr_t stream) {
                loop.set_plan(plan, handle<CUstream>(stream));
            },
            py::arg("plan"), py::arg("stream") = 0, NoGil(),
            "Write a plan such as \"-..-..\" in stream order.")
        .def(
            "launch",
            [](LoopGraph& loop, std::uintptr_t stream, int until) {
                loop.launch(handle<CUstream>(stream), until);
            },
            py::arg("stream") = 0, py::arg("until") = -1, NoGil(),
            "Run from the present step up to, and without, `until`; -1 is the plan's end.")
        .def("progress", &LoopGraph::progress, 
             "The step number that the run launched last has reached; -1 until it begins.")
        .def("done", &LoopGraph::done, "Whether every launched run has ended.")
        .def("cancel", &LoopGraph::cancel, "End all runs launched so far, within one step each; unrolled ones are made to their end.")
        .def_property_readonly("layout", [](const LoopGraph& loop) { return name(loop.layout()); })
        .def_property_readonly("num_nodes",
                               [](const LoopGraph& loop) {
                                   auto nodes = loop.num_nodes();
                                   py::dict counts;
                                   counts["root"] = nodes.root;
                                   counts["dash"] = nodes.dash;
                                   counts["dot"] = nodes.dot;
                                   return counts;
                               })
        .def_property_readonly("bytes", &LoopGraph::bytes)
        .def("describe", &LoopGraph::describe)
        .def("__repr__",
             [](const LoopGraph& loop) { return "<LoopGraph: " + loop.describe() + ">"; });
}
