"""Large sets of images: shared among processes, written in whole files, continued after a crash.

The seeds of a set, in order, are cut into chunks of one batch. Chunk k is the work of process
k mod P, which samples it whole and writes its files, or leaves it if they are all there. No process
waits for another but at the beginning and the end, and what is done is what lies in the folder.

An image depends on its seed alone. To the last bit it also depends on its batch, so chunks are cut
in the same way whatever is there already, and by however many processes: on one kind of machine,
with one batch size and one number of threads, the files are the same bytes.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn

from ..dot.dot import Dot
from ..dot.fingerprint import fingerprint
from ..engine import Sampler
from ..sampling.plan import Plan
from ..system import images
from ..system.errors import Refused
from ..system.files import whole, write_tensors
from ..system.machine import device as find_device

SETTINGS, INDEX = "settings.json", "index.json"
PATIENCE = timedelta(days=30)  # of a process that has finished, for the others
_END_OF_PNG = b"IEND\xaeB`\x82"


def join(device: str = "auto") -> PartialState:
    """The processes of `accelerate launch`, `torchrun` and the like, seen from one, or it alone.

    Args:
        device: a name as `machine.device` takes it; each of several processes takes a GPU of its
            own.

    Returns:
        accelerate's state, whose `device` is that of this process.

    Raises:
        Refused: no such device, or one GPU for several processes.
    """
    where, several = find_device(device), int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several and where.index is not None:
        raise Refused(
            f"--device {device} with {os.environ['WORLD_SIZE']} processes: use auto, and each "
            "takes a GPU of its own"
        )
    state = PartialState(cpu=where.type == "cpu", timeout=PATIENCE)
    if not several:
        state.device = where  # one of several GPUs, which accelerate does not ask for
    return state


class Pngs:
    """A set as one PNG an image, seed-0000007.png.

    Args:
        folder: where the files are.
    """

    pattern = "seed-*.png"

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def path(self, seed: int) -> Path:
        """The file of one image."""
        return self.folder / f"seed-{seed:07d}.png"

    def check(self, channels: int) -> None:
        """Raise `Refused` for images that such files do not hold."""
        if channels not in images.MODES:
            raise Refused(
                f"the model has {channels} channels: PNG files are written of 1 or 3, use "
                "--format safetensors"
            )

    def missing(self, seeds: Sequence[int]) -> list[int]:
        """The seeds without a file.

        Raises:
            Refused: a file that is cut off.
        """
        found = {seed for seed in seeds if self.path(seed).exists()}
        for seed in found:
            _check_png(self.path(seed))
        return [seed for seed in seeds if seed not in found]

    def write(self, seeds: Sequence[int], x: Tensor) -> None:
        """Write those of the images `[n, C, H, W]` that have no file; each whole or not at all."""
        wanted = set(self.missing(seeds))
        for seed, image in zip(seeds, x, strict=True):
            if seed in wanted:
                images.save_png(image, self.path(seed))

    def read(self, seeds: Sequence[int]) -> Tensor:
        """Images as they are in the files, `[n, C, H, W]` in [-1, 1]."""
        from PIL import Image

        found = []
        for seed in seeds:
            with Image.open(self.path(seed)) as picture:
                found.append(images.values(picture))
        return torch.stack(found)

    def finish(self, chunks: Sequence[Sequence[int]]) -> None:
        """Nothing more: the files are the set."""


class Tensors:
    """A set as tensors, one safetensors file a chunk, samples-0000000-0000099.safetensors.

    A file holds `samples`, float32 `[n, C, H, W]` as the sampler returns them, row by row for the
    seeds in its name. `index.json` lists the files once all of them are there.

    Args:
        folder: where the files are.
    """

    pattern = "samples-*.safetensors"

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def path(self, seeds: Sequence[int]) -> Path:
        """The file of one chunk."""
        return self.folder / f"samples-{seeds[0]:07d}-{seeds[-1]:07d}.safetensors"

    def check(self, channels: int) -> None:
        """They hold images of any number of channels."""

    def missing(self, seeds: Sequence[int]) -> list[int]:
        """The seeds of this chunk, or none if its file is there.

        Raises:
            Refused: a file that is cut off, or holds something else.
        """
        from safetensors import SafetensorError, safe_open

        path = self.path(seeds)
        if not path.exists():
            return list(seeds)
        try:
            with safe_open(path, framework="pt") as file:
                count = file.get_slice("samples").get_shape()[0]
        except SafetensorError as error:
            raise Refused(f"{path} is damaged ({error}): delete it, it is made again") from error
        if count != len(seeds):
            raise Refused(f"{path} holds {count} samples in place of {len(seeds)}: delete it")
        return []

    def write(self, seeds: Sequence[int], x: Tensor) -> None:
        """Write the chunk `[n, C, H, W]`, whole or not at all.

        Raises:
            Refused: values that are not finite.
        """
        if not x.isfinite().all():
            raise Refused(images.NOT_FINITE)
        with whole(self.path(seeds)) as partial:
            write_tensors(partial, {"samples": x.float()})

    def read(self, seeds: Sequence[int]) -> Tensor:
        """The samples of one chunk."""
        from safetensors.torch import load_file

        return load_file(self.path(seeds))["samples"]

    def finish(self, chunks: Sequence[Sequence[int]]) -> None:
        """Write the index."""
        files = [
            {"file": self.path(seeds).name, "first_seed": seeds[0], "count": len(seeds)}
            for seeds in chunks
        ]
        with whole(self.folder / INDEX) as partial:
            partial.write_text(json.dumps({"shards": files}, indent=1) + "\n")


def nothing(seeds: Sequence[int]) -> dict:
    """What models without conditions are told of seeds."""
    return {}


@dataclass(frozen=True)
class Set:
    """What is to lie in a folder.

    Attributes:
        files: the form of its images.
        settings: what an image follows from beside its number.
        new_plan: the plan, where the folder does not know it yet.
        sampler: makes images by their numbers, with a plan.
        told: what it is given by keyword for images of these numbers.
    """

    files: Pngs | Tensors
    settings: dict[str, Any]
    new_plan: Callable[[], Plan]
    sampler: Callable[[Plan], Any]
    told: Callable[[Sequence[int]], dict] = nothing


def settings(
    wanted: Plan | float, form: str, dash: nn.Module, helper: Dot | None, scheduler: Any
) -> dict[str, Any]:
    """What an image follows from beside its seed, as settings.json has it."""
    how = {"budget": None, "plan": str(wanted)} if isinstance(wanted, Plan) else {"budget": wanted}
    options = {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
    return how | {
        "format": form,
        "solver": type(scheduler).__name__,
        "schedule": json.loads(json.dumps(options, default=str)),
        "unet": fingerprint(dash),
        "dot": None if helper is None else fingerprint(helper),
    }


FORMS: dict[str, type[Pngs] | type[Tensors]] = {"png": Pngs, "safetensors": Tensors}


def cut(seeds: Sequence[int], batch_size: int) -> list[Sequence[int]]:
    """The seeds in chunks of `batch_size`; the last may be shorter."""
    return [seeds[i : i + batch_size] for i in range(0, len(seeds), batch_size)]


def share(chunks: list[Sequence[int]], process: PartialState) -> list[Sequence[int]]:
    """The chunks that are this process's work: interleaved, so that all parts grow evenly."""
    return chunks[process.process_index :: process.num_processes]


def agree(
    files: Pngs | Tensors, settings: dict, process: PartialState, plan: Callable[[], Plan]
) -> Plan:
    """The plan of the set in this folder, which has to be one of the same settings.

    The first run writes them to `settings.json`, with the plan. A later one, and the other
    processes, take the plan from there: one that follows from a measured speed would be another.

    Args:
        settings: what an image follows from beside its seed, as JSON; a "plan" only if it is given.
        plan: the plan of a new set; called by the main process alone.

    Raises:
        Refused: images of other settings are there, or of unknown ones; no common folder.
    """
    path = files.folder / SETTINGS
    if process.is_main_process and not path.exists():
        if found := next(files.folder.glob(files.pattern), None):
            raise Refused(
                f"{found} is there, but no {SETTINGS} that says how it was made: choose another "
                "--out, or delete the files"
            )
        content = settings | {"plan": str(plan())}
        with whole(path) as partial:
            partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    process.wait_for_everyone()
    if not path.exists():
        raise Refused(f"{path} of the first process is not seen here: use a shared folder")
    try:
        found = json.loads(path.read_text())
        agreed = Plan(found["plan"])
    except (ValueError, TypeError, KeyError) as error:
        raise Refused(f"{path} is damaged ({error}): choose another --out") from error
    for name, value in settings.items():
        if found.get(name) != value:
            raise Refused(
                f"{files.folder} holds images with {name} {_shown(found.get(name))}, these are "
                f"with {_shown(value)}: choose another --out, or delete that folder"
            )
    return agreed


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def fill(
    sampler: Sampler,
    files: Pngs | Tensors,
    seeds: Sequence[int],
    *,
    batch_size: int = 100,
    process: PartialState | None = None,
    on_step: Callable[[int], None] | None = None,
    told: Callable[[Sequence[int]], dict] = nothing,
) -> int:
    """Sample what is missing of a set, this process its share; returns when the set is complete.

    Args:
        sampler: as `compile` makes them.
        on_step: called with the number of images after each step of a plan, and with all steps of
            those that are there already.
        told: seeds -> what the sampler is given by keyword for their images.

    Returns:
        how many images this process sampled.

    Raises:
        Refused: a file is damaged; raised before anything is sampled.
    """
    process = process or join()
    chunks = cut(seeds, batch_size)
    mine = share(chunks, process)
    missing = [chunk for chunk in mine if files.missing(chunk)]
    steps = len(sampler.plan)
    if on_step is not None:
        on_step(steps * (sum(map(len, mine)) - sum(map(len, missing))))
    for chunk in missing:
        size = len(chunk)
        advance = None if on_step is None else lambda i, n, size=size: on_step(size)
        files.write(chunk, sampler(seed=chunk, on_step=advance, **told(chunk)).cpu())
    process.wait_for_everyone()
    if process.is_main_process:
        files.finish(chunks)
        for partial in _left_behind(files.folder):
            partial.unlink(missing_ok=True)
    return sum(map(len, missing))


def _left_behind(folder: Path) -> Iterator[Path]:
    """Temporary files of processes that were killed, where the whole file has come since."""
    for partial in folder.glob(".*.partial.*"):
        if (folder / f"{partial.name[1:].split('.')[0]}{partial.suffix}").exists():
            yield partial


def _check_png(path: Path) -> None:
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - len(_END_OF_PNG)))
        if file.read() != _END_OF_PNG:
            raise Refused(f"{path} is cut off: delete it, it is made again")
