"""Dot: a light model that corrects Dash's last estimate from the trajectory.

    x0    = Dash's clean image at its last step, from x_s and z_s (scaled to about unit variance)
    miss  = what z would have to be at (x, t) for that clean image, minus z_s
    trend = (z_s - z_p) min((t - t_s) / (t_s - t_p), 2), the line through Dash's last two estimates
    eta   = r (g up(trunk(down(x, x0, z_s, trend))) + a x + b x0 + c z_s) + d miss + e trend,
    r     = (t_s - t) / t_s

- down: m blocks, each a 3 x 3 convolution of stride 2, a scale and shift by time, and SiLU; then
  a residual block, at the lowest resolution, where it costs little;
- trunk: Dash's own layers below its first `cut` levels, sharing Dash's weights by storage, frozen,
  with LoRA on top, on 1 / 4^m of the pixels; with cut = m each works at the resolution that it was
  trained at, with a smaller cut at a fraction of it, which takes more of Dash along for less;
- up: m blocks of two 3 x 3 convolutions and a pixel shuffle, the down blocks as skip connections,
  and a residual block in the first;
- x0 and miss are linear in (x, x_s, z_s) with coefficients that depend on the times alone. Blocks
  could hardly form them, and they are what the residual is about: it is zero as long as Dash's
  clean image stays the same; `miss` is zero on a deterministic way there, the fresh noise on a
  stochastic one;
- trend is the free part: it needs no training, and Dot learns what it misses;
- conditions (text, classes, SDXL's added ones) reach the trunk as they reach Dash;
- g, a, b, c, d, e: six numbers per image from the time embedding, zero at the start: an untrained
  Dot returns 0, which is the reuse of z_s. r makes the residual vanish with the gap.

With classifier-free guidance there are two kinds. A Dot works on both branches, each with its own
z_s: two passes, and the residuals are guided. A guided Dot corrects the guided estimate itself: one
pass, half the cost, given the condition and the guidance scale.

Source: Morse (arXiv 2506.18251), section 3.3. There the whole of Dash runs at the lower resolution;
the cut of the trunk, the coordinates and the gains are ours.
"""

import copy
import hashlib
import json
import os
import tempfile
import warnings
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import kernels
from ..system.errors import Refused
from . import hub
from . import unet as trunk
from .blocks import Down, Residual, Up
from .levels import NoiseLevels
from .unet import Given

FORMAT_VERSION = 2
GUIDANCE_WAVES = 256  # sinusoids of 1000 times the guidance scale
WEIGHTS, CONFIG = "model.safetensors", "config.json"
LORA_TARGETS = ["conv1", "conv2", "time_emb_proj", "to_q", "to_k", "to_v", "to_out.0"]


def fingerprint(unet: nn.Module) -> str:
    """A name for the weights of a Dash: SHA-256 over names, shapes and values in float16.

    Half precision makes the name the same for a model loaded in float32 and in float16. A LoRA on
    top, as peft adds it, does not change the name; one that was merged into the weights does.
    """
    weights = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in unet.state_dict().items()
        if "lora_" not in name
    }
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().half().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class Moments(NamedTuple):
    """All about R moments of runs that needs no weights; R rows, one for all images or one each."""

    waves: Tensor  # float32 [R, F], Dash's sinusoids of t
    trail: Tensor  # float32 [R, 3 F], those of t_s, t_s - t and t_p - t_s
    look: Tensor  # float32 [R, 4, 4]: what Dot looks at, as sums over (x, x_s, z_s, z_p)
    basis: Tensor  # float32 [R, 6, 5]: what each gain multiplies, over (h, x, x_s, z_s, z_p)


class When(NamedTuple):
    """All that Dot computes from the times of a step: R rows, one for all images or one for each.

    A run knows its times beforehand, so it computes the rows of all its Dot steps at once.
    """

    emb: Tensor  # [R, E], for the trunk; of the trajectory alone if there are conditions
    waves: Tensor  # [R, F], sinusoids of t; [R, 0] if there are no conditions
    scale_shifts: list[Tensor]  # [R, 2 C] for each `TimeSiLU`, in the order of their use
    look: Tensor  # float32 [R, 4, 4]: what Dot looks at, as sums over (x, x_s, z_s, z_p)
    mix: Tensor  # float32 [R, 5]: eta, as a sum over (h, x, x_s, z_s, z_p)

    def pack(self) -> Tensor:
        """All of it as float32 `[R, V]`."""
        parts = (self.emb, self.waves, *self.scale_shifts, self.look.flatten(1), self.mix)
        return torch.cat([part.float() for part in parts], dim=1)

    def unpack(self, rows: Tensor) -> "When":
        """The inverse of `pack`, with the widths and the dtype of this one."""
        widths = [part.shape[1] for part in (self.emb, self.waves, *self.scale_shifts)]
        emb, waves, *scale_shifts, look, mix = rows.split([*widths, 16, 5], dim=1)
        emb, waves = emb.to(self.emb.dtype), waves.to(self.waves.dtype)
        return When(emb, waves, scale_shifts, look.unflatten(1, (4, 4)), mix)


class Dot(nn.Module):
    """The residual model `eta` of one Dash.

    Args:
        unet: the Dash, a diffusers `UNet2DModel` or `UNet2DConditionModel`; its weights are shared,
            never changed. Move it to its device and dtype first: moving it later separates the two.
            A LoRA on it stays outside of the Dot.
        noise_scheduler: a diffusers scheduler with the betas and the prediction type that Dash was
            trained with; default: `DDPMScheduler()`, 1,000 linear betas and epsilon.
        widths: channels of the down blocks; their number is m (each divides H and W by 2).
        lora_rank: rank of the LoRA on the trunk's convolutions and projections; 0 for none.
        cut: how many of Dash's levels the trunk leaves out, fewer than there are. Default: m, or
            m - 1 for a model with conditions, whose inner levels are most of it.
        guided: whether it corrects the guided estimate, instead of each branch of the guidance.

    Raises:
        Refused: a kind of UNet that has no Dot yet.
    """

    def __init__(
        self,
        unet: nn.Module,
        noise_scheduler=None,
        *,
        widths: tuple[int, ...] = (16, 32),
        lora_rank: int = 1,
        cut: int | None = None,
        guided: bool = False,
    ):
        super().__init__()
        trunk.check_supported(unet)
        if not widths or lora_rank < 0:
            raise Refused(f"widths={widths}, lora_rank={lora_rank}: give m >= 1 widths, rank >= 0")
        self.widths, self.lora_rank = tuple(widths), lora_rank
        self.in_channels = channels = unet.config.in_channels
        self.dash_class, self.dash_fingerprint = type(unet).__name__, fingerprint(unet)
        self.levels = NoiseLevels.from_scheduler(noise_scheduler)

        self.conditional, self.guided = trunk.conditional(unet), guided
        self.cut = cut if cut is not None else len(widths) - self.conditional
        self.trunk, c_in_trunk, c_out_trunk = trunk.make(unet, self.cut)
        emb_dim = self.trunk.time_embedding.linear_2.out_features
        freq_dim = self.trunk.time_embedding.linear_1.in_features
        if lora_rank:
            from peft import LoraConfig, inject_adapter_in_model

            lora = LoraConfig(r=lora_rank, lora_alpha=lora_rank, target_modules=LORA_TARGETS)
            self.trunk = inject_adapter_in_model(lora, self.trunk)

        self.trajectory_embedding = nn.Sequential(
            nn.Linear(3 * freq_dim, emb_dim), nn.SiLU(), nn.Linear(emb_dim, emb_dim)
        )
        fan = [4 * channels, *widths]
        self.down = nn.ModuleList(Down(a, b, emb_dim) for a, b in pairwise(fan))
        self.refine = Residual(widths[-1], emb_dim)
        self.enter = nn.Conv2d(widths[-1], c_in_trunk, 3, padding=1)
        self.up = nn.ModuleList()
        for i in reversed(range(len(widths))):
            lowest = i == len(widths) - 1
            c_in = c_out_trunk if lowest else widths[i]
            c_out = widths[i - 1] if i else channels
            self.up.append(Up(c_in, widths[i], c_out, emb_dim, refine=lowest))
        if guided:
            self.guidance_embedding = nn.Linear(GUIDANCE_WAVES, emb_dim)
            nn.init.zeros_(self.guidance_embedding.weight)
        self.gains = nn.Linear(emb_dim, 6)
        nn.init.zeros_(self.gains.weight)
        nn.init.zeros_(self.gains.bias)
        # where Dash lies: same device and dtype for the trained part
        like = next(unet.parameters())
        for name, child in self.named_children():
            if name != "trunk":
                child.to(like)

    # -- the model -----------------------------------------------------------------------------

    def forward(
        self,
        x: Tensor,
        timestep,
        x_s: Tensor,
        z_s: Tensor,
        timestep_s,
        z_p,
        timestep_p,
        *,
        guidance_scale=None,
        **cond,
    ) -> Tensor:
        """eta(x, t; x_s, z_s, t_s, z_p, t_p).

        Args:
            x, x_s: `[B, C, H, W]`, the sample now and at the last Dash step, as Dash is given them.
            z_s: `[B, C, H, W]`, Dash's output at that step; guided, for a guided Dot.
            z_p: Dash's output at the step before that one; z_s if there was none.
            timestep, timestep_s, timestep_p: numbers or tensors `[]` or `[B]`, in Dash's units.
            guidance_scale: a number or a tensor `[]`, `[1]` or `[B]`, for a guided Dot only.
            cond: the keywords that Dash is given, of B rows.

        Returns:
            `[B, C, H, W]`, to be added to z_s.
        """
        self._check_size(x)
        given = self.given(cond, guidance_scale)
        when = self.when(self.moments(timestep, timestep_s, timestep_p), given)
        trajectory = [tensor.contiguous() for tensor in (x, x_s, z_s, z_p)]
        features, conv = self.features(*trajectory, when, given), self.up[-1].conv2
        return kernels.residual_up_ref(features, conv.weight, conv.bias, when.mix, *trajectory)

    def given(self, cond: dict, guidance_scale=None) -> Given:
        """What the weights make of the conditioning; it is the same in all steps of a run.

        Raises:
            Refused: a keyword that this Dot does not take, or one that it needs.
        """
        like = self.gains.weight
        if (guidance_scale is not None) != self.guided:
            raise Refused(
                "this Dot is guided: it needs guidance_scale"
                if self.guided
                else "this Dot works on each branch of the guidance: it takes no guidance_scale"
            )
        given = trunk.given(self.trunk, cond, like.dtype)
        if not self.guided:
            return given
        from diffusers.models.embeddings import get_timestep_embedding

        scale = torch.as_tensor(guidance_scale, dtype=torch.float32, device=like.device).reshape(-1)
        waves = get_timestep_embedding(1000 * scale, GUIDANCE_WAVES)
        return given._replace(guidance=self.guidance_embedding(waves.to(like.dtype)))

    def moments(self, timestep, timestep_s, timestep_p) -> Moments:
        """Where the times lie, before any weight; they are numbers or tensors `[]` or `[R]`."""
        proj, device = self.trunk.time_proj, self.gains.weight.device
        times = (torch.as_tensor(t, device=device) for t in (timestep, timestep_s, timestep_p))
        t, t_s, t_p = torch.broadcast_tensors(*(time.reshape(-1) for time in times))
        trail = torch.cat([proj(value) for value in (t_s, t_s - t, t_p - t_s)], dim=1)
        # A solver of second order may ask Dash twice at one time: no line goes through those two.
        # And two points that are close say little about one that is far.
        slope = torch.where(t_p > t_s, (t_s - t) / (t_p - t_s), 0.0).clamp(max=2).float()
        r = ((t_s - t) / t_s.clamp(min=1e-3)).float()[:, None]
        x_0, miss = (nn.functional.pad(c, (0, 1)) for c in self.levels.coordinates(t, t_s))
        x, _, z_s, z_p = torch.eye(4, device=device).expand(len(t), 4, 4).unbind(1)
        trend = slope[:, None] * (z_s - z_p)
        gained = torch.stack((torch.zeros_like(x), r * x, r * x_0, r * z_s, miss, trend), dim=1)
        of_h = nn.functional.pad(r, (0, 5))  # the first gain is that of h
        basis = torch.cat((of_h[:, :, None], gained), dim=2)
        return Moments(proj(t), trail, torch.stack((x, x_0, z_s, trend), dim=1), basis)

    def when(self, moments: Moments, given: Given) -> When:
        """What the weights make of the moments."""
        dtype = self.gains.weight.dtype
        waves = moments.waves.to(dtype)
        trail = self.trajectory_embedding(moments.trail.to(dtype))
        if given.guidance is not None:
            trail = trail + given.guidance
        emb = nn.functional.silu(self.trunk.time_embedding(waves) + trail)
        # In the order in which `features` uses them.
        acts = [*(down.act for down in self.down), self.refine.act]
        for up in self.up:
            acts += [up.act] if up.refine is None else [up.act, up.refine.act]
        gains = self.gains(emb).float()[:, :, None]
        # Large terms may cancel, so no matrix product, which autocast or TF32 would round.
        mix = (gains * moments.basis).sum(1)
        scale_shifts = [act.linear(emb) for act in acts]
        if self.conditional:
            return When(trail, waves, scale_shifts, moments.look, mix)
        return When(emb, waves[:, :0], scale_shifts, moments.look, mix)

    def features(
        self, x: Tensor, x_s: Tensor, z_s: Tensor, z_p: Tensor, when: When, given: Given
    ) -> Tensor:
        """All of Dot up to its last convolution: `[B, widths[0], H / 2, W / 2]`."""
        self._check_size(x)
        scale_shifts, first = iter(when.scale_shifts), self.down[0].conv
        h = kernels.trajectory_down(
            x, x_s, z_s, z_p, when.look, first.weight, first.bias, next(scale_shifts)
        )
        skips = [h]
        for down in self.down[1:]:
            h = down(h, next(scale_shifts))
            skips.append(h)
        skips[-1] = h = self.refine(h, next(scale_shifts))
        emb = when.emb
        if self.conditional:
            emb = trunk.embedding(self.trunk, when.waves, when.emb, given)
        h = trunk.run(self.trunk, self.enter(h), emb, given)
        for up in self.up[:-1]:
            h = up.shuffle(up.features(h, skips.pop(), scale_shifts))
        return self.up[-1].features(h, skips.pop(), scale_shifts)

    def _check_size(self, x: Tensor) -> None:
        factor = 2 ** (len(self.widths) + len(self.trunk.down_blocks) - 1)
        if x.shape[1] != self.in_channels or x.shape[2] % factor or x.shape[3] % factor:
            raise Refused(
                f"x has shape {tuple(x.shape)}: this Dot needs {self.in_channels} channels and "
                f"a height and width that are multiples of {factor}"
            )

    def check_dash(self, unet: nn.Module) -> None:
        """Raise ValueError if this is not the Dot of `unet`; warn if a LoRA is on that."""
        _check_fingerprint(self.dash_fingerprint, unet)
        from peft.tuners.tuners_utils import BaseTunerLayer

        if any(isinstance(module, BaseTunerLayer) for module in unet.modules()):
            warnings.warn(
                "Dash has a LoRA that its Dot was not trained with: compare images with those of "
                "Dash alone, or train a Dot for the two",
                stacklevel=3,
            )

    # -- weights -------------------------------------------------------------------------------

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """The blocks and the LoRA by name: all that is trained and stored."""
        return {n: p for n, p in self.named_parameters() if p.requires_grad}

    def merged(self) -> "Dot":
        """A copy for inference with the LoRA added into a private copy of the trunk.

        Faster (no extra layers), at the price of the trunk's weights in memory once more.
        """
        from peft.tuners.tuners_utils import BaseTunerLayer

        dot = copy.deepcopy(self).eval().requires_grad_(False)
        for module in dot.trunk.modules():
            if isinstance(module, BaseTunerLayer):
                module.merge()
        trunk.without_adapters(dot.trunk)
        return dot

    # -- files ---------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the trained part as `model.safetensors` and `config.json`; whole files or none."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "format_version": FORMAT_VERSION,
            "class": type(self).__name__,
            "dash_class": self.dash_class,
            "dash_fingerprint": self.dash_fingerprint,
            "noise": self.levels.config,
            "widths": list(self.widths),
            "lora_rank": self.lora_rank,
            "cut": self.cut,
            "guided": self.guided,
        }
        tensors = {n: p.detach().cpu().contiguous() for n, p in self.trained_parameters().items()}
        if not tensors:
            raise Refused("a merged Dot is for inference only: save the one it was made from")
        save_file(tensors, folder / f"{WEIGHTS}.partial", metadata={"format": "pt"})
        (folder / f"{CONFIG}.partial").write_text(json.dumps(config, indent=2) + "\n")
        for name in (WEIGHTS, CONFIG):
            os.replace(folder / f"{name}.partial", folder / name)

    def push_to_hub(self, repo_id: str, *, card: str | None = None, private: bool = False) -> str:
        """Upload the trained part and a model card to the Hugging Face hub; its address.

        Args:
            repo_id: OWNER/NAME, made if it is not there.
            card: the text of README.md, for instance the one that `train-dot` wrote; default: what
                the Dot knows of itself.

        Raises:
            Unavailable: the hub cannot be reached or refuses, with its reason.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            (Path(folder) / "README.md").write_text(card or hub.card(self), "utf-8")
            return hub.upload(repo_id, folder, private)

    @classmethod
    def from_pretrained(cls, folder: str | Path, unet: nn.Module) -> "Dot":
        """Load the Dot of `unet` from a folder written by `save_pretrained`, or from the hub.

        Args:
            folder: a folder, or, where there is none of that name, OWNER/NAME on the Hugging Face
                hub; without a connection what was loaded before is taken.

        Raises:
            FileNotFoundError: no such folder or file, here or on the hub.
            Refused: not a Dot, a newer format, a damaged file, or the Dot of another Dash.
        """
        from diffusers import DDPMScheduler
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = hub.folder(folder, (CONFIG, WEIGHTS))
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder / name} is missing: is {folder} a saved Dot?")
        try:
            config = json.loads((folder / CONFIG).read_text())
            tensors = load_file(folder / WEIGHTS)
        except (json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
            raise Refused(f"{folder} holds a damaged file ({error}): copy it again") from error
        if not isinstance(config, dict) or config.get("class") != cls.__name__:
            raise Refused(f"{folder / CONFIG} does not describe a Dot")
        version = config.get("format_version")
        if version not in range(1, FORMAT_VERSION + 1):
            raise Refused(
                f"{folder} has format version {version}, this release reads 1 to "
                f"{FORMAT_VERSION}: update morse-engine, or train the Dot again"
            )
        missing = {"dash_fingerprint", "noise", "widths", "lora_rank"} - config.keys()
        if missing:
            raise Refused(f"{folder / CONFIG} lacks {', '.join(sorted(missing))}: copy it again")
        _check_fingerprint(config["dash_fingerprint"], unet)
        widths, lora_rank = tuple(config["widths"]), config["lora_rank"]
        noise_scheduler = DDPMScheduler.from_config(config["noise"])
        # Version 1 knew neither of these two.
        options = {"cut": config.get("cut"), "guided": config.get("guided", False)}
        dot = cls(unet, noise_scheduler, widths=widths, lora_rank=lora_rank, **options)
        own = dot.trained_parameters()
        wrong = sorted(
            (set(own) ^ set(tensors))
            | {n for n in own.keys() & tensors if own[n].shape != tensors[n].shape}
        )
        if wrong:
            raise Refused(f"{folder / WEIGHTS} does not fit its config: {', '.join(wrong[:3])}")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(tensors[name])
        return dot.eval()


def _check_fingerprint(expected: str, unet: nn.Module) -> None:
    found = fingerprint(unet) if isinstance(unet, nn.Module) else "none: not a module"
    if found != expected:
        raise Refused(
            f"this is the Dot of another Dash (fingerprint {expected[:12]}, yours has "
            f"{found[:12]}): use the model it was trained for (with any LoRA on top, not merged "
            "into its weights), or train a Dot for yours"
        )
