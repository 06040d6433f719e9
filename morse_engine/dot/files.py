"""The files of a Dot: in a folder, on the Hugging Face hub, and the model card beside them."""

import json
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..sampling.budget import FILE as PLANS
from ..system import checks
from ..system.checks import kind, shown
from ..system.errors import Refused, Unavailable
from ..system.files import output_folder, whole, write_tensors
from ..system.notice import warn
from .fingerprint import fingerprint
from .levels import NoiseLevels
from .options import check_dtype

FORMAT_VERSION = 3  # 2 and 1 looked at another `miss`
KEYS = {"dash_fingerprint", "noise", "widths", "lora_rank", "cut", "guided", "solvers"}
WEIGHTS, CONFIG = "model.safetensors", "config.json"
OWNER_AND_NAME = r"[\w-][\w.-]*/[\w-][\w.-]*"

AnyDot = TypeVar("AnyDot", bound="Stored")


class Stored(Protocol):
    """What its files ask of a `Dot`."""

    dash_class: str
    dash_fingerprint: str
    levels: NoiseLevels
    widths: tuple[int, ...]
    lora_rank: int
    cut: int
    guided: bool
    conditional: bool
    folder: Path | None
    solvers: tuple[str, ...]

    def __init__(
        self,
        unet: nn.Module,
        noise_scheduler: Any,
        *,
        widths: tuple[int, ...],
        lora_rank: int,
        cut: int | None,
        guided: bool,
    ) -> None: ...

    def trained_parameters(self) -> dict[str, nn.Parameter]: ...

    def eval(self: AnyDot) -> AnyDot: ...


def check_fingerprint(expected: str, unet: Callable[..., Tensor]) -> None:
    """Refuse a Dash whose weights have another `fingerprint`."""
    if not isinstance(unet, nn.Module):
        raise Refused(f"a Dot belongs to the weights of its Dash; unet is {kind(unet)}: pass that")
    check_dtype(unet)
    found = fingerprint(unet)
    if found == expected:
        return
    if any(p.dtype == torch.bfloat16 for p in unet.parameters()):
        raise Refused(
            "this Dash is in bfloat16, whose rounding hides whether its Dot was trained for it "
            f"(fingerprint {expected[:12]}, yours has {found[:12]}): load it in float32 or "
            "float16, or train a Dot for it as it is"
        )
    raise Refused(
        f"this is the Dot of another Dash (fingerprint {expected[:12]}, yours has "
        f"{found[:12]}): use the model it was trained for (with any LoRA on top, not merged "
        "into its weights), or train a Dot for yours"
    )


# -- in a folder -------------------------------------------------------------------------------


def save(dot: Stored, folder: str | Path) -> None:
    """Write the trained part of a Dot; whole files or none. See `Dot.save_pretrained`.

    What a search has left there of a Dot with other weights is removed, with a warning.
    """
    config = {
        "format_version": FORMAT_VERSION,
        "class": type(dot).__name__,
        "dash_class": dot.dash_class,
        "dash_fingerprint": dot.dash_fingerprint,
        "noise": dot.levels.config,
        "widths": list(dot.widths),
        "lora_rank": dot.lora_rank,
        "cut": dot.cut,
        "guided": dot.guided,
        "solvers": list(dot.solvers),
    }
    folder = checks.path("folder", folder)
    tensors = {n: p.detach().cpu() for n, p in dot.trained_parameters().items()}
    if not tensors:
        raise Refused("a merged Dot is for inference only: save the one it was made from")
    _check_finite(tensors, "this Dot is not saved: it has", "train it again, at a lower rate")
    output_folder(folder)
    # Both are there before either takes its name.
    with whole(folder / CONFIG) as config_path, whole(folder / WEIGHTS) as weights_path:
        write_tensors(weights_path, tensors)
        config_path.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        plans, earlier = folder / PLANS, folder / WEIGHTS
        others = earlier.exists() and earlier.read_bytes() != weights_path.read_bytes()
        if others and plans.exists():
            plans.unlink()  # before the new weights are there: no plans are better than wrong ones
            warn(f"{plans} ranked the plans of another Dot and was removed: search anew")


def load(cls: type[AnyDot], folder: str | Path, unet: nn.Module) -> AnyDot:
    """The Dot of `unet`, an object of `cls`. See `Dot.from_pretrained`."""
    from diffusers import DDPMScheduler

    folder = folder_of(folder, (CONFIG, WEIGHTS))
    config, tensors = _read(folder, cls.__name__)
    try:
        levels = NoiseLevels.from_config(config["noise"])
        options = _options(config, tensors)
    except Refused as error:
        raise Refused(f"{folder / CONFIG}: {error}; copy it again") from None
    if isinstance(unet, nn.Module) and any(weight.is_meta for weight in unet.parameters()):
        raise Refused("this Dash is on meta, without values: load its weights first")
    check_fingerprint(config["dash_fingerprint"], unet)
    dot = cls(unet, DDPMScheduler(**levels.config), **options)
    own = dot.trained_parameters()
    wrong = sorted(
        (set(own) ^ set(tensors))
        | {n for n in own.keys() & tensors if own[n].shape != tensors[n].shape}
    )
    if wrong:
        raise Refused(f"{folder / WEIGHTS} does not fit its config: {', '.join(wrong[:3])}")
    _check_finite(tensors, f"{folder / WEIGHTS} holds", "copy it again, or train the Dot again")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])
    dot.folder = folder
    dot.solvers = tuple(map(str, config["solvers"]))
    return dot.eval()


def _check_finite(tensors: dict[str, Tensor], who: str, fix: str) -> None:
    for name, tensor in sorted(tensors.items()):
        if not tensor.is_floating_point():
            raise Refused(f"{who} {tensor.dtype} in {name}: {fix}")
        if not tensor.isfinite().all():
            raise Refused(f"{who} NaN or infinite values in {name}: {fix}")


def _read(folder: Path, name_of_class: str) -> tuple[dict, dict[str, Tensor]]:
    """Config and tensors of a saved Dot, checked as far as they can be without its Dash."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing: is {folder} a saved Dot?")
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        tensors = load_file(folder / WEIGHTS)
    except (ValueError, RecursionError, SafetensorError) as error:  # json's are ValueErrors
        raise Refused(f"{folder} holds a damaged file ({error}): copy it again") from error
    if not isinstance(config, dict) or config.get("class") != name_of_class:
        raise Refused(f"{folder / CONFIG} does not describe a Dot")
    version = config.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise Refused(
            f"{folder} has format version {shown(version)}, this release reads {FORMAT_VERSION}: "
            "update morse-engine for a later one, train the Dot again for an earlier one"
        )
    missing = KEYS - config.keys()
    if missing:
        raise Refused(f"{folder / CONFIG} lacks {', '.join(sorted(missing))}: copy it again")
    if not isinstance(config["dash_fingerprint"], str):
        raise Refused(f"{folder / CONFIG}: dash_fingerprint is no text: copy it again")
    return config, tensors


def _options(config: dict, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The options of a saved Dot, of the right types, and such that its file has their sizes.

    What a file does not have must not be built: its widths alone say how much memory that takes.
    """
    widths, misfit = config["widths"], f"{WEIGHTS} does not fit its config:"
    if not isinstance(widths, list):
        raise Refused(f"widths={shown(widths)}: has to be a list of integers")
    downs = sum(re.fullmatch(r"down\.\d+\.conv\.weight", name) is not None for name in tensors)
    if len(widths) != downs:
        raise Refused(f"{misfit} widths={shown(widths)}, but {downs} down blocks")
    for i, width in enumerate(widths):
        stored = tensors.get(f"down.{i}.conv.weight", torch.empty(0)).shape[0]
        if checks.integer("a width", width, 1) != stored:
            raise Refused(f"{misfit} widths={shown(widths)}, but down block {i} has {stored}")
    if not isinstance(config["solvers"], list):
        raise Refused(f"solvers={shown(config['solvers'])}: has to be a list of names")
    rank = checks.integer("lora_rank", config["lora_rank"], 0)
    ranks = {len(t) if t.ndim else 0 for name, t in tensors.items() if ".lora_A." in name} or {0}
    if ranks != {rank}:
        raise Refused(f"{misfit} lora_rank={rank}, but ranks {sorted(ranks)}")
    return {
        "widths": tuple(widths),
        "lora_rank": rank,
        "cut": checks.integer("cut", config["cut"], 0),
        "guided": checks.flag("guided", config["guided"]),
    }


# -- on the hub --------------------------------------------------------------------------------


def folder_of(name: str | Path, files: Sequence[str]) -> Path:
    """The folder `name`, or, where there is none, `files` of that repository, downloaded.

    Raises:
        FileNotFoundError: neither, or the hub cannot be reached and nothing was kept of it.
    """
    name = str(checks.path("folder", name))
    if not _on_hub(name):
        return Path(name)
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(huggingface_hub.snapshot_download(str(name), allow_patterns=list(files)))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{name} is no folder here, and cannot be loaded from the hub ({_reason(error)}): "
            "check the name, the connection, or hf auth login for a private one"
        ) from error


def push(dot: Stored, repo_id: str, text: str | None, private: bool) -> str:
    """Upload a Dot with the model card `text`, by default `card(dot)`. See `Dot.push_to_hub`."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    with tempfile.TemporaryDirectory() as folder:
        save(dot, folder)
        (Path(folder) / "README.md").write_text(text or card(dot), "utf-8")
        try:
            address = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="A Dot")
        except (HfHubHTTPError, OSError, ValueError) as error:
            raise Unavailable(
                f"{repo_id} cannot be uploaded ({_reason(error)}): check the name, the connection "
                "and hf auth login"
            ) from error
    return str(address)


def _on_hub(name: str | Path) -> bool:
    """Whether this is OWNER/NAME, and not the path of something here."""
    return re.fullmatch(OWNER_AND_NAME, str(name)) is not None and not Path(name).exists()


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


# -- the model card ----------------------------------------------------------------------------


def card(dot: Stored, base_model: str | None = None, facts: dict[str, str] | None = None) -> str:
    """The model card of a Dot, as Markdown; made without a connection.

    Args:
        base_model: path or hub name of Dash; one on the hub is linked.
        facts: further rows of the table, on the training.
    """
    from huggingface_hub import ModelCard, ModelCardData

    linked = base_model if base_model and _on_hub(base_model) else None
    tags = ["diffusion", "morse"]
    data = ModelCardData(library_name="morse-engine", tags=tags, base_model=linked)
    kind = "guided: one pass on the guided estimate" if dot.guided else "one pass for each branch"
    rows = {
        # Of a model in a folder the name alone: the path is nobody else's.
        "Dash": linked or Path(base_model or "").name or dot.dash_class,
        "Dash's fingerprint": f"`{dot.dash_fingerprint}`",
        "widths": " ".join(map(str, dot.widths)),
        "levels of Dash left out (cut)": str(dot.cut),
        "LoRA rank": str(dot.lora_rank),
        **({"guidance": kind} if dot.conditional else {}),
        **({"trained with": ", ".join(dot.solvers)} if dot.solvers else {}),
        **(facts or {}),
    }
    return f"{ModelCard.from_template(data, template_str=CARD, rows=rows)}\n"


CARD = """---
{{ card_data }}
---

# A Dot for Morse dual sampling

Makes steps between the steps of a diffusion model, Dash, in a fraction of their time
([arXiv 2506.18251](https://arxiv.org/abs/2506.18251)). It works with the weights of this Dash
alone.

| | |
|---|---|
{%- for name, value in rows.items() %}
| {{ name }} | {{ value }} |
{%- endfor %}

## Use

```python
from morse_engine import Dot

dot = Dot.from_pretrained("FOLDER_OR_REPOSITORY", pipe.unet)  # or the unet itself
```
"""
