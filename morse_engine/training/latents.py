"""Latents and text embeddings of captioned images, computed once and kept in files.

manifest.json            what they were made from
empty.safetensors        the keywords of the empty prompt
00000.safetensors ...    latents and keywords of `ROWS` images each, float16
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import torch
from accelerate import PartialState
from torch import Tensor

from ..dot.fingerprint import fingerprint
from ..system.errors import Refused
from ..system.files import output_folder, whole, write_tensors
from ..system.lock import alone
from .captioned import Captioned
from .captions import Example

ROWS = 4096  # images in a file
AT_ONCE = 8  # images through the encoders
MANIFEST, EMPTY_FILE = "manifest.json", "empty.safetensors"


class Stored:
    """One tensor of all images, `[n, ...]`, read from the files row by row."""

    def __init__(self, files: "Files", name: str, rows: range):
        self.files, self.name, self.rows = files, name, rows
        self.shape = (len(rows), *files.open(0).get_slice(name).get_shape()[1:])

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, rows: Tensor) -> Tensor: ...

    @overload
    def __getitem__(self, rows: slice) -> "Stored": ...

    def __getitem__(self, rows: Tensor | slice) -> "Tensor | Stored":
        """The rows of an int64 tensor `[B]` as a tensor, those of a slice stored as before."""
        if isinstance(rows, slice):
            return Stored(self.files, self.name, self.rows[rows])
        found = []
        for row in rows.tolist():
            file, at = divmod(self.rows[row], ROWS)
            found.append(self.files.open(file).get_slice(self.name)[at : at + 1])
        return torch.cat(found)

    def digest(self) -> str:
        """A name for these rows: what they were made from; they are not read."""
        manifest = (self.files.paths[0].parent / MANIFEST).read_text()
        return hashlib.sha256(f"{manifest}{self.name}{self.rows}".encode()).hexdigest()


class Files:
    """The files of a folder, each opened once; what is read of them is mapped, not loaded."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = paths
        self._open: dict[int, Any] = {}

    def open(self, file: int) -> Any:
        """One of them, a `safetensors.safe_open`."""
        from safetensors import safe_open

        if file not in self._open:
            self._open[file] = safe_open(self.paths[file], framework="pt")
        return self._open[file]

    @cached_property
    def names(self) -> list[str]:
        return list(self.open(0).keys())


def encode(
    pipe: Any,
    examples: Sequence[Example],
    folder: str | Path,
    size: int,
    on_rows: Callable[[int], None] = lambda count: None,
) -> Captioned:
    """The latents and keywords of all examples, from `folder` as far as they are there.

    `latent = (mean of vae.encode(image) - shift) * scaling_factor`. Several processes share the
    work; all of them have to see the folder. A file is whole or not there, so a run that was
    stopped continues with the first one that is missing.

    Args:
        pipe: a diffusers pipeline of Stable Diffusion, SDXL or LCM, on the device to work on.
        examples: images with captions; they are stored in random order.
        size: height and width of the images in pixels.
        on_rows: told how many more images are done, or were found.

    Returns:
        images `[n, C, size / f, size / f]` float16 and the keywords of the UNet.

    Raises:
        Refused: the folder was made of other images, by another model or in another size.
        Unavailable: another process encodes into the folder.
    """
    folder, state = output_folder(folder), PartialState()
    with alone(folder) if state.is_main_process else nullcontext():
        _encode(pipe, examples, folder, size, on_rows)
    return load(folder, len(examples), embedded=bool(pipe.unet.config.time_cond_proj_dim))


def _encode(
    pipe: Any,
    examples: Sequence[Example],
    folder: Path,
    size: int,
    on_rows: Callable[[int], None],
) -> None:
    """Write the files that are missing, this process its share; returns when all are there."""
    state = PartialState()
    _check_manifest(folder, _manifest(pipe, examples, size))
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0)).tolist()
    paths = [folder / f"{k:05d}.safetensors" for k in range(-(-len(examples) // ROWS))]
    for k, path in enumerate(paths):
        chosen = [examples[i] for i in order[k * ROWS : (k + 1) * ROWS]]
        if path.is_file():
            on_rows(len(chosen))
        elif k % state.num_processes == state.process_index:
            parts = []
            for first in range(0, len(chosen), AT_ONCE):
                parts.append(_encoded(pipe, chosen[first : first + AT_ONCE], size))
                on_rows(len(parts[-1]["latents"]))
            _write(path, {name: torch.cat([part[name] for part in parts]) for name in parts[0]})
    if state.is_main_process and not (folder / EMPTY_FILE).is_file():
        _write(folder / EMPTY_FILE, keywords(pipe, None, size))
    state.wait_for_everyone()


def load(folder: Path, count: int, *, embedded: bool) -> Captioned:
    """What `encode` left in the folder; `embedded`: a Dash without a branch for no prompt."""
    from safetensors.torch import load_file

    files = Files(sorted(folder.glob("[0-9]*.safetensors")))
    columns = {name: Stored(files, name, range(count)) for name in files.names}
    images = columns.pop("latents")
    empty = None if embedded else nested(load_file(folder / EMPTY_FILE))
    return Captioned(images, nested(columns), empty)


@torch.no_grad()
def _encoded(pipe: Any, examples: Sequence[Example], size: int) -> dict[str, Tensor]:
    device, config = pipe.vae.device, pipe.vae.config
    pixels = torch.stack([example.pixels(size) for example in examples])
    mean = pipe.vae.encode(pixels.to(device, pipe.vae.dtype)).latent_dist.mean
    latents = (mean - (config.get("shift_factor") or 0)) * config.scaling_factor
    return {"latents": latents, **keywords(pipe, [e.caption for e in examples], size)}


@torch.no_grad()
def keywords(pipe: Any, captions: Sequence[str] | None, size: int) -> dict[str, Tensor]:
    """The keywords of the UNet for captions, one row each, or for the empty prompt (None).

    The names are flat, `added_cond_kwargs.text_embeds`. The empty prompt is what the pipeline
    guides with, which for SDXL are zeros.
    """
    options = {"num_images_per_prompt": 1, "do_classifier_free_guidance": captions is None}
    prompt = "" if captions is None else list(captions)
    # Of an SDXL: with, without, and both once more, pooled.
    found = pipe.encode_prompt(prompt=prompt, device=pipe.text_encoder.device, **options)
    which = 1 if captions is None else 0
    result = {"encoder_hidden_states": found[which]}
    if len(found) == 4:
        # The original size, the corner of the crop, the size: as the pipeline has them by default.
        ids = torch.tensor([[size, size, 0, 0, size, size]], dtype=torch.float32)
        result["added_cond_kwargs.text_embeds"] = found[which + 2]
        result["added_cond_kwargs.time_ids"] = ids.expand(len(found[which]), -1)
    return result


def nested(flat: dict) -> dict:
    nested: dict = {}
    for name, value in flat.items():
        above, _, leaf = name.rpartition(".")
        (nested.setdefault(above, {}) if above else nested)[leaf] = value
    return nested


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    with whole(path) as partial:
        write_tensors(partial, {name: tensor.half().cpu() for name, tensor in tensors.items()})


def _manifest(pipe: Any, examples: Sequence[Example], size: int) -> dict:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(f"{example.name}\0{example.num_bytes}\0{example.caption}\0".encode())
    parts = [pipe.vae, pipe.text_encoder, getattr(pipe, "text_encoder_2", None)]
    models = "".join(fingerprint(part) for part in parts if part is not None)
    return {
        "format_version": 1,
        "rows_a_file": ROWS,
        "images": len(examples),
        "files": digest.hexdigest(),  # names, lengths and captions
        "models": hashlib.sha256(models.encode()).hexdigest(),  # VAE and text encoders
        "size": size,
    }


def _check_manifest(folder: Path, manifest: dict) -> None:
    path = folder / MANIFEST
    if path.is_file():
        try:
            found = json.loads(path.read_text())
        except (json.JSONDecodeError, UnicodeDecodeError):
            found = {}
        if other := [name for name in manifest if found.get(name) != manifest[name]]:
            name = other[0]
            raise Refused(
                f"{folder} holds latents of another run, {name} is {str(found.get(name))[:12]} "
                f"there and {str(manifest[name])[:12]} here: name another folder with --cache, or "
                "delete it"
            )
    elif any(folder.glob("*.safetensors")):
        raise Refused(f"{folder} holds files but no {MANIFEST}: name another folder")
    elif PartialState().is_main_process:
        with whole(path) as partial:
            partial.write_text(json.dumps(manifest, indent=2) + "\n")
    PartialState().wait_for_everyone()
