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
  trained at, with a smaller cut at a fraction of it, which takes more of Dash along for less; what
  depends on the kind of Dash is behind `Family`;
- up: m blocks of two 3 x 3 convolutions and a pixel shuffle, the down blocks as skip connections,
  and a residual block in the first;
- x0 and miss are linear in (x, x_s, z_s) with coefficients that depend on the times alone. Blocks
  could hardly form them, and the residual is miss as long as Dash's clean image stays the same:
  next to zero on a deterministic way there, the fresh noise on a stochastic one;
- trend needs no training, and Dot learns what it misses;
- conditions (text, classes, SDXL's added ones) reach the trunk as they reach Dash;
- g, a, b, c, d, e: six numbers per image from the time embedding, at first zero but for d = 1: an
  untrained Dot holds Dash's clean image. r makes the residual vanish with the gap.

With classifier-free guidance there are two kinds. A Dot works on both branches, each with its own
z_s: two passes, and the residuals are guided. A guided Dot corrects the guided estimate itself: one
pass, half the cost, given the condition and the guidance scale.

Source: Morse (arXiv 2506.18251), section 3.3. There the whole of Dash runs at the lower resolution;
the cut of the trunk, the coordinates and the gains are ours.
"""

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import kernels
from ..kernels.solver_step import State
from ..sampling.free import Numbers
from ..system.errors import Refused
from ..system.notice import warn
from . import files, merge, trajectory
from .blocks import Down, Residual, TimeSiLU, Up
from .families import family_of
from .family import Given, has_adapters
from .helper import Helper, for_dot, seen
from .levels import NoiseLevels
from .memo import Memo
from .options import Options, check_dtype
from .when import Moments, Timed, When

GUIDANCE_WAVES = 256  # sinusoids of 1000 times the guidance scale


class Dot(Helper):
    """The residual model `eta` of one Dash.

    Args:
        unet: the Dash, of one of the `FAMILIES`: a diffusers `UNet2DModel` or
            `UNet2DConditionModel`. Its weights are shared, never changed. Move it to its device and
            dtype first: moving it later separates the two. A LoRA on it stays outside of the Dot.
        noise_scheduler: a diffusers scheduler with the betas and the prediction type that Dash was
            trained with; default: `DDPMScheduler()`, 1,000 linear betas and epsilon.
        widths: channels of the down blocks; their number is m (each divides H and W by 2).
        lora_rank: rank of the LoRA on the trunk's convolutions and projections; 0 for none.
        cut: how many of Dash's levels the trunk leaves out, fewer than there are. Default: its
            family's; of UNets m, or m - 1 with conditions, when the inner levels are most of it.
        guided: whether it corrects the guided estimate, instead of each branch of the guidance.

    Raises:
        Refused: a kind of Dash that has no Dot yet, or a number out of range.
    """

    fused = True
    levels: NoiseLevels
    down: Sequence[Down]
    up: Sequence[Up]
    memo: Memo | None = None  # of a merged one

    def __init__(
        self,
        unet: nn.Module,
        noise_scheduler: Any = None,
        *,
        widths: tuple[int, ...] = (16, 32),
        lora_rank: int = 1,
        cut: int | None = None,
        guided: bool = False,
    ):
        super().__init__()
        family = family_of(unet)
        check_dtype(unet)
        options = Options.checked(widths, lora_rank, cut, guided)
        self.widths, self.lora_rank, cut, self.guided = options
        config: Any = unet.config  # of diffusers; nn.Module knows of none
        self.in_channels: int = config.in_channels
        self.dash_class, self.dash_fingerprint = type(unet).__name__, files.fingerprint(unet)
        self.levels = NoiseLevels.from_scheduler(noise_scheduler)

        self.inner = family(unet, len(self.widths), cut)
        self.cut, self.conditional = self.inner.cut, self.inner.conditional
        self.multiple = 2 ** len(self.widths) * self.inner.multiple  # of height and width
        self.trunk = self.inner.trunk
        if self.lora_rank:
            from peft import LoraConfig, inject_adapter_in_model

            targets = self.inner.LORA_TARGETS
            lora = LoraConfig(r=self.lora_rank, lora_alpha=self.lora_rank, target_modules=targets)
            inject_adapter_in_model(lora, self.trunk)
        self._make_blocks()
        like = next(unet.parameters())  # device and dtype of the trained part are Dash's
        for name, child in self.named_children():
            if name != "trunk":
                child.to(like)

    def _make_blocks(self) -> None:
        """All that is not Dash's, in the order in which saved Dots have it."""
        widths, emb_dim = self.widths, self.inner.emb_dim
        c_in_trunk, c_out_trunk = self.inner.channels
        self.trajectory_embedding = nn.Sequential(
            nn.Linear(3 * self.inner.waves_dim, emb_dim), nn.SiLU(), nn.Linear(emb_dim, emb_dim)
        )
        fan = [4 * self.in_channels, *widths]
        # torch's lists do not say what they hold.
        self.down = nn.ModuleList(Down(a, b, emb_dim) for a, b in pairwise(fan))  # type: ignore[assignment]
        self.refine = Residual(widths[-1], emb_dim)
        self.enter = nn.Conv2d(widths[-1], c_in_trunk, 3, padding=1)
        self.up = up = nn.ModuleList()  # type: ignore[assignment]
        for i in reversed(range(len(widths))):
            lowest = i == len(widths) - 1
            c_in = c_out_trunk if lowest else widths[i]
            c_out = widths[i - 1] if i else self.in_channels
            up.append(Up(c_in, widths[i], c_out, emb_dim, refine=lowest))
        if self.guided:
            self.guidance_embedding = nn.Linear(GUIDANCE_WAVES, emb_dim)
            nn.init.zeros_(self.guidance_embedding.weight)
        # No module of its own: those of the blocks, in the order in which `features` uses them.
        self.acts = tuple(block for block in self.modules() if isinstance(block, TimeSiLU))
        self.gains = nn.Linear(emb_dim, 6)
        nn.init.zeros_(self.gains.weight)
        self.gains.bias = nn.Parameter(torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 0.0]))

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "trunk":  # registered here, under the names of saved Dots; run by the family
            self.inner.trunk = value

    def forward(
        self,
        x: Tensor,
        timestep: Numbers,
        x_s: Tensor,
        z_s: Tensor,
        timestep_s: Numbers,
        z_p: Tensor,
        timestep_p: Numbers,
        *,
        guidance_scale: Numbers | None = None,
        **cond: Any,
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
        trajectory.check((x, x_s, z_s, z_p), (timestep, timestep_s, timestep_p))
        times = timestep, timestep_s, timestep_p
        given = self.given(cond, guidance_scale)
        if self.memo is None:
            when = self.when(self.moments(*times), given)
        else:
            when = self.memo.when(self, times, guidance_scale, given)
        x, x_s, z_s, z_p = (tensor.contiguous() for tensor in (x, x_s, z_s, z_p))
        h, conv = self.features(x, x_s, z_s, z_p, when, given), self.up[-1].conv2
        return kernels.residual_up_ref(h, conv.weight, conv.bias, when.mix, x, x_s, z_s, z_p)

    def update(self, state: State, trajectory: Sequence[Tensor], when: When, given: Given) -> None:
        """A Dot step of a run in static memory: eta, and with it the solver's step in one kernel.

        Args:
            state: of the run; it is changed in place, all but `step`.
            trajectory: (x_s, z_s, z_p), x_s `[B, C, H, W]`; the others as many rows as there are
                estimates, 2 B if each branch of the guidance has its own.
            when, given: of this step.
        """
        h, conv = self.features(*seen(state, trajectory), when, given), self.up[-1].conv2
        kernels.residual_up_update(h, conv.weight, conv.bias, when.mix, *trajectory, *state)

    def given(self, cond: dict, guidance_scale: Numbers | None = None) -> Given:
        """What the weights make of the conditioning; it is the same in all steps of a run.

        Raises:
            Refused: a keyword that this Dot does not take, or one that it needs.
        """
        like = self.gains.weight
        if self.guided and guidance_scale is None:
            raise Refused("this Dot is guided: it needs guidance_scale")
        if guidance_scale is not None and not self.guided:
            raise Refused(
                "this Dot works on each branch of the guidance: it takes no guidance_scale"
            )
        given = self.inner.given(for_dot(cond), like.dtype)
        if not self.guided:
            return given
        from diffusers.models.embeddings import get_timestep_embedding

        scale = torch.as_tensor(guidance_scale, dtype=torch.float32, device=like.device).reshape(-1)
        waves = get_timestep_embedding(1000 * scale, GUIDANCE_WAVES)
        return given._replace(guidance=self.guidance_embedding(waves.to(like.dtype)))

    def moments(self, timestep: Numbers, timestep_s: Numbers, timestep_p: Numbers) -> Moments:
        """Where the times lie, before any weight; they are numbers or tensors `[]` or `[R]`."""
        device, times = self.gains.weight.device, (timestep, timestep_s, timestep_p)
        rows = (torch.as_tensor(t, device=device).reshape(-1) for t in times)
        t, t_s, t_p = torch.broadcast_tensors(*rows)
        return Moments.at(t, t_s, t_p, self.levels, self.inner.waves)

    def when(self, moments: Moments, given: Given, *, of_a_run: bool = False) -> When:
        """What the weights make of the moments.

        Args:
            of_a_run: whether each row is a step with all the images of `given`; else there is one
                for all images, or one for each.
        """
        return When.of(self.inner, Timed.of(self, moments, given), given, of_a_run=of_a_run)

    def features(
        self, x: Tensor, x_s: Tensor, z_s: Tensor, z_p: Tensor, when: When, given: Given
    ) -> Tensor:
        """All of Dot up to its last convolution: `[B, widths[0], H / 2, W / 2]`."""
        if x.shape[1] != self.in_channels or any(size % self.multiple for size in x.shape[2:]):
            raise Refused(
                f"x has shape {tuple(x.shape)}: this Dot needs {self.in_channels} channels and "
                f"a height and width that are multiples of {self.multiple}"
            )
        scale_shifts, first = iter(when.scale_shifts), self.down[0].conv
        h = kernels.trajectory_down(
            x, x_s, z_s, z_p, when.look, first.weight, first.bias, next(scale_shifts)
        )
        skips = [h]
        for down in self.down[1:]:
            h = down(h, next(scale_shifts))
            skips.append(h)
        skips[-1] = h = self.refine(h, next(scale_shifts))
        h = self.inner.run(self.enter(h), when.told, given)
        for up in self.up[:-1]:
            h = up.shuffle(up.features(h, skips.pop(), scale_shifts))
        return self.up[-1].features(h, skips.pop(), scale_shifts)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Dot":
        if self.memo is not None:
            self.memo.clear()  # weights that are moved or cast say nothing of it
        return super()._apply(fn, recurse)

    def check_dash(self, unet: Callable[..., Tensor]) -> None:
        """Raise `Refused` if this is not the Dot of `unet`; warn if a LoRA is on that."""
        files.check_fingerprint(self.dash_fingerprint, unet)
        if has_adapters(unet):
            warn("Dash has a LoRA that its Dot was not trained with: compare images with Dash's")

    # -- weights -------------------------------------------------------------------------------

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """The blocks and the LoRA by name: all that is trained and stored."""
        return {n: p for n, p in self.named_parameters() if p.requires_grad}

    def merged(self) -> "Dot":
        """A copy for inference with the LoRA added into a private copy of the trunk.

        Faster (fewer launches, in the layout that pays), at the price of the trunk's weights in
        memory once more.
        """
        return merge.merged(self)

    def compiled(self, **options: Any) -> "Dot":
        """A second object with the same weights, whose `features` go through `torch.compile`."""
        dot = copy.copy(self)
        dot.features = torch.compile(self.features, **options)  # type: ignore[method-assign]
        return dot

    # -- files ---------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the trained part as `model.safetensors` and `config.json`; whole files or none.

        Raises:
            Refused: a merged Dot.
        """
        files.save(self, folder)

    def push_to_hub(self, repo_id: str, *, card: str | None = None, private: bool = False) -> str:
        """Upload the trained part and a model card to the Hugging Face hub; its address.

        Args:
            repo_id: OWNER/NAME, made if it is not there.
            card: the text of README.md, for instance the one that `train-dot` wrote; default: what
                the Dot knows of itself.

        Raises:
            Unavailable: the hub cannot be reached or refuses, with its reason.
        """
        return files.push(self, repo_id, card, private)

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
        return files.load(cls, folder, unet)
