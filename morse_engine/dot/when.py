"""What a Dot computes from the times of a step: `Moments` without weights, `When` with them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..sampling.free import difference, slope
from .family import Family, Given
from .levels import NoiseLevels

TREND = 2.0  # Dash's last two estimates are continued to at most twice the way between them


class Moments(NamedTuple):
    """All about R moments of runs that needs no weights; R rows, one for all images or one each."""

    waves: Tensor  # float32 [R, F], Dash's sinusoids of t
    trail: Tensor  # float32 [R, 3 F], those of t_s, t_s - t and t_p - t_s
    look: Tensor  # float32 [R, 4, 4]: what Dot looks at, as sums over (x, x_s, z_s, z_p)
    basis: Tensor  # float32 [R, 6, 5]: what each gain multiplies, over (h, x, x_s, z_s, z_p)

    @classmethod
    def at(
        cls,
        t: Tensor,
        t_s: Tensor,
        t_p: Tensor,
        levels: NoiseLevels,
        waves: Callable[[Tensor], Tensor],
    ) -> "Moments":
        """Those of the times t, t_s and t_p, `[R]` each; waves makes sinusoids `[R, F]` of `[R]`.

        The formula is in `dot.py`.
        """
        of_t, *trail = waves(torch.cat((t, t_s, t_s - t, t_p - t_s))).chunk(4)
        r = ((t_s - t) / t_s.clamp(min=1e-3)).float()[:, None]
        x_0, miss = (nn.functional.pad(c, (0, 1)) for c in levels.coordinates(t, t_s))
        x, _, z_s, z_p = (
            torch.eye(4, dtype=torch.float32, device=t.device).expand(len(t), 4, 4).unbind(1)
        )
        trend = slope(t, t_s, t_p, difference, TREND).float()[:, None] * (z_s - z_p)
        gained = torch.stack((torch.zeros_like(x), r * x, r * x_0, r * z_s, miss, trend), dim=1)
        of_h = nn.functional.pad(r, (0, 5))  # the first gain is that of h
        basis = torch.cat((of_h[:, :, None], gained), dim=2)
        return cls(of_t, torch.cat(trail, 1), torch.stack((x, x_0, z_s, trend), dim=1), basis)


class Timed(NamedTuple):
    """What Dot's own weights make of R moments, whatever images and conditions there are."""

    waves: Tensor  # [R, F], in the dtype of the weights
    trail: Tensor  # [R, E], the embedding of the trajectory, and of the guidance scale
    scale_shifts: list[Tensor]  # these as in `When`
    look: Tensor
    mix: Tensor

    @classmethod
    def of(cls, dot: Any, moments: Moments, given: Given) -> "Timed":
        """What a `Dot` makes of the moments; of what is given it takes the guidance scale alone."""
        dtype = dot.gains.weight.dtype
        waves = moments.waves.to(dtype)
        trail = dot.trajectory_embedding(moments.trail.to(dtype))
        if given.guidance is not None:
            trail = trail + given.guidance
        emb = nn.functional.silu(dot.inner.embedding(waves, trail, Given()))
        gains = dot.gains(emb).float()[:, :, None]
        # Large terms may cancel, so no matrix product, which autocast or TF32 would round.
        mix = (gains * moments.basis).sum(1)
        return cls(waves, trail, [act.linear(emb) for act in dot.acts], moments.look, mix)


class When(NamedTuple):
    """All that Dot computes from the times of a step: R rows, one for all images or one for each.

    A run knows its times beforehand, so it computes the rows of all its Dot steps at once; then
    each row of `told` has those of all images of the step, as conditions need them.
    """

    told: Tensor  # [R, W], what the trunk's layers are told; [R, 1 or B, W] in the rows of a run
    scale_shifts: list[Tensor]  # [R, 2 C] for each `TimeSiLU`, in the order of their use
    look: Tensor  # float32 [R, 4, 4]: what Dot looks at, as sums over (x, x_s, z_s, z_p)
    mix: Tensor  # float32 [R, 5]: eta, as a sum over (h, x, x_s, z_s, z_p)

    @classmethod
    def of(cls, inner: Family, timed: Timed, given: Given, *, of_a_run: bool = False) -> "When":
        """With what the trunk is told under the conditions; of_a_run as in `Dot.when`."""
        waves, trail, scale_shifts, look, mix = timed
        if of_a_run:
            waves, trail = waves[:, None], trail[:, None]
        told = inner.told(inner.embedding(waves, trail, given))
        return cls(told, scale_shifts, look, mix)

    def pack(self) -> Tensor:
        """All of it as float32 `[R, V]`."""
        parts = (self.told.flatten(1), *self.scale_shifts, self.look.flatten(1), self.mix)
        return torch.cat([part.float() for part in parts], dim=1)

    def unpack(self, row: Tensor) -> "When":
        """One row `[1, V]` of `pack`, for features in the dtype of this one."""
        told = self.told[0]
        widths = [told.numel(), *(part.shape[1] for part in self.scale_shifts)]
        first, *scale_shifts, look, mix = row.split([*widths, 16, 5], dim=1)
        first = first.view(told.shape).to(told.dtype)
        return When(first, scale_shifts, look.unflatten(1, (4, 4)), mix)
