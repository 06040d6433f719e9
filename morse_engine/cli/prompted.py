"""`morse-engine sample --prompt`: pictures of prompts by a text-to-image pipeline of diffusers.

With n pictures of each prompt, number k of a set is of prompt k // n, and its seed is the first one
plus k mod n. Its first latents are drawn from a generator of that seed on the CPU, so the picture
does not depend on its batch, and is that of the same seed in diffusers.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..dot.fingerprint import fingerprint
from ..integrations.latents import range_of
from ..integrations.pipelines import accelerate, restore
from ..integrations.search import check_text_to_image, own_guidance
from ..sampling import probe, schedulers
from ..sampling.plan import Plan
from ..system.errors import Refused
from ..training import pipeline
from ..zoo import miniature
from . import sets
from .prompts import MINIATURE
from .sets import Pngs, Set

if TYPE_CHECKING:
    from ..dot.dot import Dot

OTHERS = ("text_encoder", "text_encoder_2", "vae")  # models that a picture follows from too
MINIATURE_GUIDANCE = 3.0  # what its pictures were looked at with


@dataclass(frozen=True)
class Asked:
    """What is asked for beside the plan.

    Args:
        prompts: one or more.
        model: a folder of a pipeline, or its name on the hub; None or "miniature": the bundled one.
        negative: the negative prompt.
        guidance: scale of classifier-free guidance; None: the pipeline's own.
        lora: a folder, file or name on the hub that `load_lora_weights` takes.
    """

    prompts: list[str]
    model: str | None = None
    negative: str | None = None
    guidance: float | None = None
    lora: str | None = None

    @property
    def bundled(self) -> bool:
        """Whether it is asked of the bundled miniature."""
        return self.model in (None, MINIATURE)

    @property
    def scale(self) -> float | None:
        """The guidance scale of a call; None: the pipeline's own."""
        own = MINIATURE_GUIDANCE if self.bundled else None
        return own if self.guidance is None else self.guidance

    def scale_of(self, pipe: Any) -> float:
        """The guidance scale of a call of this pipeline."""
        return own_guidance(pipe) if self.scale is None else self.scale


def pictures(
    asked: Asked,
    dot: str | None,
    solver: str | None,
    wanted: Plan | float,
    files: "Drawn",
    device: torch.device,
    plans: str | None,
) -> Set:
    """The set of these prompts.

    Args:
        dot, solver: the folder of a Dot, the name of a solver; None: without, the pipeline's own.
        wanted: a plan, or a budget in LSD.
        plans: the folder of a search; None: that of the Dot.
    """
    pipe, helper = load(asked, dot, solver, device)
    settings = sets.settings(wanted, "png", pipe.unet, helper, pipe.scheduler) | {
        "lora": None if asked.lora is None else _of_lora(pipe),
        **{part: fingerprint(getattr(pipe, part)) for part in OTHERS if hasattr(pipe, part)},
        "pipeline": type(pipe).__name__,
        "prompts": asked.prompts,
        "negative": asked.negative,
        "guidance": asked.scale,
    }
    if plans is not None:
        settings["latents"] = str(range_of(pipe, plans))
    return Set(
        files,
        settings,
        lambda: plan_of(wanted, pipe, helper, plans),
        lambda plan: Painter(pipe, helper, plan, plans, asked, files),
    )


def load(asked: Asked, dot: str | None, solver: str | None, device: torch.device) -> Any:
    """(pipeline, Dot or None): on the device, in half precision on a GPU.

    A Dot is loaded before the LoRA: it belongs to the Dash as it was trained.

    Raises:
        FileNotFoundError, Refused: as `training.pipeline.load`; a pipeline that does not draw from
            prompts alone, or something that is no LoRA of this one.
    """
    from ..dot.dot import Dot

    quiet()
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    pipe = pipeline.load(str(miniature.WEIGHTS) if asked.bundled else str(asked.model), dtype)
    check_text_to_image(pipe)
    pipe.to(device)
    if device.type == "cpu":
        pipe.unet.to(memory_format=torch.channels_last)  # faster there
    if solver is not None:
        pipe.scheduler = schedulers.make(solver, pipe.scheduler.config)
    helper = None if dot is None else Dot.from_pretrained(dot, pipe.unet)
    if asked.lora is not None:
        _put_on(pipe, asked.lora)
    return pipe, helper


def quiet() -> None:
    """Libraries say what went wrong, not what they are loading."""
    for name in "diffusers", "transformers":
        if find_spec(name) is not None:  # what is missing is said by what needs it
            logging = import_module(f"{name}.utils.logging")
            logging.set_verbosity_error()
            logging.disable_progress_bar()


def _put_on(pipe: Any, lora: str) -> None:
    try:
        pipe.load_lora_weights(lora)
    except Exception as error:  # whatever diffusers, peft and the hub have names for
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise Refused(f"--lora {lora} is no LoRA of this {type(pipe).__name__}: {said}") from error
    if not pipe.get_active_adapters():
        raise Refused(f"--lora {lora} holds no layer of this {type(pipe).__name__}")
    for model in _with_lora(pipe):
        pipeline.check_finite(model, f"--lora {lora}", "lora_")


def _with_lora(pipe: Any) -> list[Any]:
    """The models of a pipeline that a LoRA may be put on."""
    return [getattr(pipe, part) for part in ("unet", *OTHERS) if hasattr(pipe, part)]


def _of_lora(pipe: Any) -> str:
    """A name for the weights of a pipeline's LoRA, which fingerprints of its models leave out."""
    digest = hashlib.sha256()
    for model in _with_lora(pipe):
        for name, weight in model.named_parameters():
            if "lora_" in name:
                digest.update(name.encode())
                digest.update(weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def plan_of(wanted: Plan | float, pipe: Any, dot: "Dot | None", plans: str | None) -> Plan:
    """The plan to be run: the wanted one, or the one that a budget in LSD buys here."""
    if isinstance(wanted, Plan):
        probe.steps_for_calls(pipe.scheduler, len(wanted))  # refused before a file is written
        return wanted
    bought = accelerate(pipe, dot, budget=wanted, plans=plans).plan
    restore(pipe)
    assert bought is not None  # of a budget
    print(f"budget  {bought} within {wanted:g} LSD")
    return bought


class Drawn(Pngs):
    """The files of a set of prompts: prompt-0003-seed-0000007.png, without the prompt if it is one.

    Args:
        folder: where they are.
        prompts: how many.
        seed, num_images: the first seed, and how many pictures each prompt has.
    """

    pattern = "*seed-*.png"

    def __init__(self, folder: str | Path, prompts: int, seed: int, num_images: int):
        super().__init__(folder)
        self.prompts, self.seed, self.num_images = prompts, seed, num_images

    def path(self, seed: int) -> Path:
        """The file of a picture of this number."""
        prompt, image = divmod(seed, self.num_images)
        name = super().path(self.seed + image).name
        return self.folder / (f"prompt-{prompt:04d}-{name}" if self.prompts > 1 else name)


class Painter:
    """An accelerated pipeline as `sets.fill` asks for images.

    Attributes:
        plan: of each picture.
        solver: a name for it.
    """

    def __init__(
        self,
        pipe: Any,
        dot: "Dot | None",
        plan: Plan,
        plans: str | None,
        asked: Asked,
        files: Drawn,
    ):
        self.pipe, self.plan, self._asked, self._files = pipe, plan, asked, files
        self.solver = type(pipe.scheduler).__name__.removesuffix("Scheduler")
        accelerate(pipe, dot, plan=plan, plans=plans)

    def __call__(self, seed: Sequence[int], on_step: Callable[[int, int], None] | None) -> Tensor:
        """The pictures of these numbers, `[n, 3, H, W]` in [-1, 1]."""
        asked, files = self._asked, self._files
        prompts = [asked.prompts[number // files.num_images] for number in seed]
        seeds = [files.seed + number % files.num_images for number in seed]
        negative = None if asked.negative is None else [asked.negative] * len(prompts)
        vars(self.pipe)["progress_bar"] = bar = _Bar(on_step)
        images = self.pipe(
            prompts,
            negative_prompt=negative,
            generator=[torch.Generator().manual_seed(one) for one in seeds],
            output_type="pt",
            **({} if asked.scale is None else {"guidance_scale": asked.scale}),
        ).images
        bar.update(len(self.plan) - bar.made)  # pipelines skip some steps of solvers of two calls
        return images.float() * 2 - 1


class _Bar(nullcontext):
    """In the place of the bar of a pipeline: the steps are told to the bar of the set."""

    def __init__(self, on_step: Callable[[int, int], None] | None):
        self._on_step, self.made = on_step, 0

    def __call__(self, iterable: Any = None, total: int | None = None) -> Any:
        return self

    def __enter__(self) -> "_Bar":
        return self

    def update(self, count: int = 1) -> None:
        for _ in range(count):
            self.made += 1
            if self._on_step is not None:
                self._on_step(self.made, self.made)
