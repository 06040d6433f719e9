"""What an acceleration is worth: distance to real images, speed-up at equal quality.

How good are the images: `Frechet`, `rmse_to_full`. How much sooner are equally good images there:
`speedup` (what a step costs: `speed.py`). The free rivals are in `dot/free.py`.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..sampling import noise
from ..sampling.loop import sample
from ..system.errors import Refused, Unavailable

# -- quality -----------------------------------------------------------------------------------


class _Features(nn.Module):
    """An extractor as torchmetrics wants it, with float64 features so that nothing is rounded."""

    def __init__(self, extractor: nn.Module):
        super().__init__()
        self.num_features = extractor.num_features
        # In a tuple, not a submodule: the metric must not move or cast a model that it only uses.
        self.extractor = (extractor,)

    def forward(self, x: Tensor) -> Tensor:
        (extractor,) = self.extractor
        features = extractor.features(x) if hasattr(extractor, "features") else extractor(x)
        if features.shape != (len(x), self.num_features):
            raise Refused(
                f"{type(extractor).__name__} gave {tuple(features.shape)} for {len(x)} images: an "
                f"extractor gives [B, num_features] = {(len(x), self.num_features)}"
            )
        return features.double()


class Frechet:
    """The Frechet distance between generated images and one set of real images.

    `|| mu - mu_r ||^2 + tr(S + S_r - 2 (S S_r)^(1/2))` over the features of the images; lower is
    better. The real statistics are computed once, here. Statistics are float64. Images are clamped
    to [-1, 1] first: they count as they would be shown. The distance of a finite set is biased
    upwards: compare only distances of equally many images.

    Args:
        extractor: a module with `num_features` whose `features(x)` (or, without that method, whose
            `forward(x)`) maps images to `[B, num_features]`; it is put into `eval()`. Or
            "inception" for the usual FID: Inception v3, 2048 features, images rounded to 8 bits.
        real_images: `[n, C, H, W]` float32 in [-1, 1].
        batch_size: images per call of the extractor.

    Raises:
        Refused: fewer images than features + 1, or an extractor that is neither.
        Unavailable: "inception" without the package torch-fidelity.

    Source: Heusel et al. 2017 (arXiv 1706.08500), eq. 6.
    """

    def __init__(self, extractor, real_images: Tensor, *, batch_size: int = 250):
        from torchmetrics.image.fid import FrechetInceptionDistance

        self.inception = isinstance(extractor, str) and extractor == "inception"
        if self.inception:
            try:
                metric = FrechetInceptionDistance(feature=2048, reset_real_features=False)
            except ModuleNotFoundError as error:
                raise Unavailable(
                    'extractor="inception" needs the weights of torch-fidelity: '
                    "pip install torch-fidelity"
                ) from error
            self.num_features, device = 2048, real_images.device
        elif isinstance(extractor, nn.Module) and hasattr(extractor, "num_features"):
            features = _Features(extractor.eval())
            metric = FrechetInceptionDistance(feature=features, reset_real_features=False)
            self.num_features = extractor.num_features
            device = next((p.device for p in extractor.parameters()), real_images.device)
        else:
            raise Refused(
                f"extractor={extractor!r}: give a module with num_features, or 'inception'"
            )
        self.metric, self.device, self.batch_size = metric.to(device), device, batch_size
        self._update(real_images, real=True)

    @torch.no_grad()
    def _update(self, images: Tensor, *, real: bool) -> None:
        if len(images) <= self.num_features:
            raise Refused(
                f"{len(images)} images for {self.num_features} features: the covariance needs at "
                f"least {self.num_features + 1} images"
            )
        for x in images.split(self.batch_size):
            x = x.to(self.device).clamp(-1, 1)
            if self.inception:
                x = ((x + 1) * 127.5).round().to(torch.uint8)
                x = x.expand(-1, 3, -1, -1)
            self.metric.update(x, real=real)

    def distance(self, images: Tensor) -> float:
        """The distance of `[n, C, H, W]` float32 images (clamped to [-1, 1]) to the real ones.

        Raises:
            Refused: fewer images than features + 1.
        """
        self.metric.reset()  # forgets the images of the last call, keeps the real statistics
        self._update(images, real=False)
        return self.metric.compute().item()


def rmse_to_full(images: Tensor, full_images: Tensor) -> float:
    """How far images are from the full-step result from the same noise, in units of the data range.

    `sqrt(mean((images - full_images)^2))`, over all images `[n, C, H, W]` and pixels.

    Raises:
        Refused: the shapes differ.
    """
    if images.shape != full_images.shape:
        raise Refused(
            f"images {tuple(images.shape)} and full_images {tuple(full_images.shape)} differ in "
            "shape: sample both from the same seeds"
        )
    return (images.double() - full_images.double()).square().mean().sqrt().item()


# -- speed-up at equal quality -----------------------------------------------------------------

Curve = Sequence[tuple[float, float]]  # points (latency, Frechet distance)


@dataclass(frozen=True)
class SpeedUp:
    """How much sooner images of the same quality are there; 1.0 is no gain.

    `lower_bounds[i]`: the baseline never gets as good in the measured range, so the speed-up of
    budget i is only known to be at least this. `upper_bounds[i]`: the baseline is better already at
    its cheapest point, so the speed-up of budget i is at most this. `low`, `high`: 95 % confidence
    interval of the mean, None where there are fewer than three sets.
    """

    mean: float
    per_budget: list[float]
    lower_bounds: list[bool]
    upper_bounds: list[bool]
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        lower, upper = any(self.lower_bounds), any(self.upper_bounds)
        sign = "about " if lower and upper else ">= " if lower else "<= " if upper else ""
        band = "" if self.low is None else f" (95 %: {self.low:.2f} .. {self.high:.2f})"
        return f"{sign}{self.mean:.2f}x{band}"


def _checked(curve: Curve, name: str) -> list[tuple[float, float]]:
    points = [(float(latency), float(fd)) for latency, fd in curve]
    if not points:
        raise Refused(f"{name} is empty: give at least one point (latency, distance)")
    for latency, fd in points:
        if not (math.isfinite(latency) and latency > 0 and math.isfinite(fd)):
            raise Refused(f"{name} holds ({latency}, {fd}): give latency > 0, both finite")
    return points


def _latency_to_reach(baseline: list[tuple[float, float]], fd: float) -> tuple[float, str]:
    """The least latency at which the falling curve `baseline` is at `fd`, and the kind of bound."""
    (last_latency, last_fd), *rest = baseline
    if fd > last_fd:
        return last_latency, "upper"
    if fd == last_fd:
        return last_latency, ""
    for latency, value in rest:
        if value <= fd:
            part = (last_fd - fd) / (last_fd - value)
            return last_latency + part * (latency - last_latency), ""
        last_latency, last_fd = latency, value
    return last_latency, "lower"


def speedup(baseline: Curve, morse: Curve) -> SpeedUp:
    """The average speed-up: for each Morse budget, the baseline latency that is as good, divided.

    `mean over (L, f) in morse of  latency_baseline(f) / L`, where latency_baseline runs along the
    straight lines between the measured points. The baseline's distance is first made to fall by a
    running minimum over the latency, because noise makes it wiggle; that favours the baseline.
    Straight lines lie above a curve that flattens out, which favours Morse where the points are far
    apart: measure the baseline densely. Nothing is extrapolated: see the bounds of `SpeedUp`.

    Args:
        baseline: points (latency, distance) of the plain sampler with n steps, in any order.
        morse: points (latency, distance), in the same units; `per_budget` keeps their order.

    Raises:
        Refused: a curve is empty or holds a number that is not finite, or a latency <= 0.

    Source: Morse (arXiv 2506.18251), the definition of its average speed-up.
    """
    falling: list[tuple[float, float]] = []
    for latency, fd in sorted(_checked(baseline, "baseline")):
        falling.append((latency, min(fd, falling[-1][1]) if falling else fd))
    ratios, kinds = [], []
    for latency, fd in _checked(morse, "morse"):
        reached, kind = _latency_to_reach(falling, fd)
        ratios.append(reached / latency)
        kinds.append(kind)
    return SpeedUp(
        mean=statistics.fmean(ratios),
        per_budget=ratios,
        lower_bounds=[kind == "lower" for kind in kinds],
        upper_bounds=[kind == "upper" for kind in kinds],
    )


def speedup_over_sets(baselines: Sequence[Curve], morses: Sequence[Curve]) -> SpeedUp:
    """The average speed-up over independent sets of seeds, with its 95 % confidence interval.

    Each set gives one `speedup`; `mean +- t_(0.975, k - 1) sd / sqrt(k)` over the k sets (Student).
    A budget is marked as a bound if it is one in any set.

    Args:
        baselines, morses: one curve per set; all Morse curves have the same budgets in one order.

    Raises:
        Refused: no sets, or the numbers of sets or of budgets differ.
    """
    if not baselines or len(baselines) != len(morses):
        raise Refused(
            f"{len(baselines)} baselines and {len(morses)} Morse curves: give one of each per set"
        )
    if len({len(morse) for morse in morses}) != 1:
        raise Refused(f"sets with {[len(m) for m in morses]} budgets: give the same budgets")
    sets = [speedup(b, m) for b, m in zip(baselines, morses, strict=True)]
    means, k = [s.mean for s in sets], len(sets)
    mean, low, high = statistics.fmean(means), None, None
    if k >= 3:
        from scipy.stats import t

        half = float(t.ppf(0.975, k - 1)) * statistics.stdev(means) / math.sqrt(k)
        low, high = mean - half, mean + half
    return SpeedUp(
        mean=mean,
        per_budget=[statistics.fmean(r) for r in zip(*(s.per_budget for s in sets), strict=True)],
        lower_bounds=[any(b) for b in zip(*(s.lower_bounds for s in sets), strict=True)],
        upper_bounds=[any(b) for b in zip(*(s.upper_bounds for s in sets), strict=True)],
        low=low,
        high=high,
    )


# -- many images -------------------------------------------------------------------------------


def sample_many(
    dash: Callable,
    dot: Callable | None,
    plan,
    table,
    seeds: Sequence[int],
    shape: Sequence[int],
    batch_size: int = 100,
    *,
    device: torch.device | str = "cpu",
    progress: bool = False,
    **cond,
) -> Tensor:
    """The images of many seeds, sampled in batches by the eager loop.

    Args:
        dash, dot, plan, table: as for `sampling.loop.sample`; dot may be None if the plan has no
            Dot steps.
        seeds: one whole number per image; an image depends on its seed alone, not on the batch.
        shape: `(C, H, W)`.
        device: where the models are.
        progress: show a progress bar.
        cond: the same for all images.

    Returns:
        `[len(seeds), C, H, W]` float32 on the CPU.
    """
    from rich.progress import track

    seeds = [int(seed) for seed in seeds]
    batches = [seeds[i : i + batch_size] for i in range(0, len(seeds), batch_size)]
    images = []
    for batch in track(batches, description=f"sampling {plan}", disable=not progress):
        start = noise.normal(batch, noise.INITIAL, shape, device=device)
        images.append(sample(dash, dot, plan, table, start, batch, cond).cpu())
    return torch.cat(images)
