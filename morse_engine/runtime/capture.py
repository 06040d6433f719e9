"""One step as a CUDA graph, recorded so that nothing else in the process is touched by it."""

import ctypes
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache

import torch

from ..system.errors import Unavailable

# Lazy initialisation needs one; torch asks for eleven with DistributedDataParallel.
WARM_UPS = 3
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: work on the legacy stream does not end a capture
_TURN = threading.RLock()  # captures of several threads take turns


class NotCaptured(Unavailable):
    """The steps of a layout cannot be captured."""


def own_stream(device: torch.device) -> torch.cuda.Stream:
    """A stream that nobody else has; destroyed with this object.

    torch's own streams are 32 that are handed out in turns, so that what another user of one does
    meanwhile would be captured too.

    Raises:
        Unavailable: the driver makes none.
    """
    handle = ctypes.c_void_p()
    with torch.cuda.device(device):
        torch.cuda.current_stream().query()  # the device's context is current in this thread
        if code := _driver().cuStreamCreate(ctypes.byref(handle), _NON_BLOCKING):
            raise Unavailable(f"cuStreamCreate failed with error {code}: no stream to capture on")
        stream = torch.cuda.ExternalStream(handle.value, device=device)
    weakref.finalize(stream, _driver().cuStreamDestroy_v2, handle).atexit = False
    return stream


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


@cache
def _warm_up_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all warm-ups: torch keeps memory for matrix products for each stream it has seen."""
    return torch.cuda.Stream(device)


def capture(
    name: str,
    step: Callable[[], None],
    pool: "torch.cuda._POOL_HANDLE | None",
    device: torch.device,
    stream: torch.cuda.Stream | None = None,
) -> torch.cuda.CUDAGraph:
    """`step` as a `torch.cuda.CUDAGraph` that is not instantiated yet.

    While it records, other threads may use the GPU but not draw from torch's generator on it, which
    has one state of capture for all of them (torch 2.12 and older).

    Args:
        pool: of memory, shared by graphs that are never launched at once; a new one by default.
        stream: nobody else may use it meanwhile; a new one by default.

    Raises:
        NotCaptured: the step draws from torch's generator, whose numbers would be the same in each
            replay, or does something that cannot be captured.
    """
    with _TURN, torch.cuda.device(device):
        _warm_up(name, step, device)
        stream = own_stream(device) if stream is None else stream
        pool = torch.cuda.graph_pool_handle() if pool is None else pool
        graph = torch.cuda.CUDAGraph(keep_graph=True)
        try:
            _record(graph, step, pool, stream, device)
        except torch.OutOfMemoryError:
            raise  # a RuntimeError too; the ledger makes room and tries again
        except RuntimeError as error:
            raise NotCaptured(
                f"the {name} step cannot be captured into a CUDA graph ({error}); a model must not "
                "wait for the GPU or copy from the host in its forward; use backend='eager'"
            ) from error
    return graph


def _warm_up(name: str, step: Callable[[], None], device: torch.device) -> None:
    """What the first calls make is made, outside of the pool; refuse a step that draws."""
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    before = generator.get_offset()
    side = _warm_up_stream(device)
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            step()
    torch.cuda.current_stream().wait_stream(side)
    if generator.get_offset() != before:
        raise NotCaptured(
            f"the {name} step draws random numbers from torch's generator, which a captured "
            "step would repeat: call eval() on the models, or use backend='eager'"
        )


def _record(
    graph: torch.cuda.CUDAGraph,
    step: Callable[[], None],
    pool: "torch.cuda._POOL_HANDLE",
    stream: torch.cuda.Stream,
    device: torch.device,
) -> None:
    """Capture the step; whatever happens in it, torch is afterwards what it was before."""
    here = torch.cuda.current_stream()
    word = torch.zeros(1, device=device)  # made while nothing can be broken
    with _no_garbage():
        try:
            with torch.cuda.graph(
                graph, pool=pool, stream=stream, capture_error_mode="thread_local"
            ):
                step()
        except BaseException:
            torch.cuda.set_stream(here)  # up to torch 2.11 the stream of the capture stays current
            with suppress(RuntimeError):  # and the allocator goes on recording; newer ones say no
                torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
            _heal(word, stream)
            raise
        finally:
            # torch keeps memory for matrix products by stream, now that of this pool. Forgotten, it
            # lives and dies with the graphs that use it, and no other graph can get hold of it.
            torch._C._cuda_clearCublasWorkspaces()


def _heal(word: torch.Tensor, stream: torch.cuda.Stream) -> None:
    """Take torch's generator out of the state of capture, where a failed one leaves it.

    In it the next random number of anybody would raise; the end of a capture that succeeds, be it
    of one operation, is all that mends it.
    """
    with (
        suppress(RuntimeError),
        torch.cuda.graph(torch.cuda.CUDAGraph(), stream=stream, capture_error_mode="thread_local"),
    ):
        word.zero_()


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Cycles are not collected within: a graph or pinned memory in one, freed by this thread while
    it captures, would end the capture."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
