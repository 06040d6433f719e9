"""Training of a Dot: regression, on points of the data and on the sampler's own way."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn

from ..dot.dot import Dot
from ..dot.levels import NoiseLevels
from ..sampling.loop import Trajectory
from ..sampling.schedulers import name_of
from ..system import checks
from .batches import noisy_batch
from .captioned import Captioned
from .checks import check_kinds, check_training
from .fit import Fit, Recipe, step_generator
from .identity import of_training
from .judge import Judge, Verdict
from .prompts import Asked, Prompts
from .recipe import MOST_POINTS, check_names
from .visits import Visits, visit

WALKED = "ddim", "dpm"  # solvers whose ways are walked where no others are named
FLOOR = 4e-4  # squared error of z below which a point is not worth more: 2 % of unit noise


@dataclass(frozen=True, kw_only=True)
class DotRecipe(Recipe):
    """The numbers of a Dot's training; those of every training are explained in `fit.Recipe`.

    Args:
        own_way_from: the part of the run after which Dot leads the walks.
        data_share: the part of each batch that is data.
        num_visits: how many visited points are kept.
        refresh_every: training steps between two walks of `batch_size` images.
        run_steps: the least and the most steps of a walk.
        dropout: the part of the points on data that has the empty prompt; for a guided Dot none.
        guidance: the lowest and the highest guidance scale w.

    Raises:
        Refused: a number out of its range.
    """

    num_steps: int = 6000
    batch_size: int = 64
    lr: float = 3e-3
    own_way_from: float = 0.08
    data_share: float = 0.1
    num_visits: int = 8192
    refresh_every: int = 40
    run_steps: tuple[int, int] = (4, 32)
    dropout: float = 0.1
    guidance: tuple[float, float] = (2.0, 12.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_visits", "refresh_every"):
            self._settle_whole(name)
        for name in ("own_way_from", "data_share", "dropout"):
            self._settle_number(name)
            self._require(name, 0 <= getattr(self, name) <= 1, "give a part, from 0 to 1")
        fits = 1 <= self.num_visits <= MOST_POINTS
        self._require("num_visits", fits, f"keep 1 to {MOST_POINTS:,} points")
        self._require("refresh_every", self.refresh_every >= 1, "give at least one step")
        steps = self._pair("run_steps", "give two numbers of 2 or more, the lower first", 2)
        object.__setattr__(self, "run_steps", tuple(map(int, steps)))
        scales = self._pair("guidance", "give two scales from 0, the lower first", 0)
        object.__setattr__(self, "guidance", scales)

    def _pair(self, name: str, fix: str, least: int) -> tuple[float, float]:
        """Two numbers of `least` or more, the lower first; of 2 or more they are whole."""
        value = getattr(self, name)
        self._require(name, checks.is_list(value) and len(value) == 2, fix)
        low, high = (checks.number(f"a number of {name}", one) for one in value)
        whole = least == 0 or (low.is_integer() and high.is_integer())
        self._require(name, whole and least <= low <= high, fix)
        return low, high


def train_dot(
    dot: Dot,
    unet: nn.Module,
    images: Tensor | Captioned,
    noise_scheduler: Any,
    out_dir: str | Path,
    *,
    schedulers: Sequence,
    num_steps: int = DotRecipe.num_steps,
    batch_size: int = DotRecipe.batch_size,
    lr: float = DotRecipe.lr,
    own_way_from: float = DotRecipe.own_way_from,
    data_share: float = DotRecipe.data_share,
    num_visits: int = DotRecipe.num_visits,
    refresh_every: int = DotRecipe.refresh_every,
    run_steps: tuple[int, int] = DotRecipe.run_steps,
    dropout: float = DotRecipe.dropout,
    guidance: tuple[float, float] = DotRecipe.guidance,
    held_out: Tensor | Captioned | None = None,
    **fit_options: Any,
) -> Dot:
    """Train a Dot by `DotTraining`, where loss and points are explained.

    At each checkpoint the Dot with averaged weights is saved in `out_dir`/dot. At the end it is
    judged (`judge.Judge`); of one that is worse than what needs no training a warning says so.

    Args:
        dot, unet, images, noise_scheduler, schedulers, held_out: see `DotTraining`.
        out_dir: folder for checkpoint, log and Dot; an interrupted run continues from it.
        num_steps ... guidance, fit_options: the numbers of `DotRecipe` and of `fit.Recipe`.

    Returns:
        the dot with averaged weights.

    Raises:
        Refused: images, Dot and Dash that do not fit each other, a number out of range, a folder of
            another run, or a loss that is not finite.
        Unavailable: another process trains in the folder.

    Source: Morse (arXiv 2506.18251), section 3.3; the divisor and the points on the way are ours.
    """
    check_names(DotRecipe, fit_options)
    recipe = DotRecipe(
        num_steps=num_steps, batch_size=batch_size, lr=lr, own_way_from=own_way_from,
        data_share=data_share, num_visits=num_visits, refresh_every=refresh_every,
        run_steps=run_steps, dropout=dropout, guidance=guidance, **fit_options,
    )  # fmt: skip
    training = DotTraining(dot, unet, images, noise_scheduler, schedulers, recipe, held_out)
    dot = training.run(out_dir)
    if training.verdict is not None and not training.verdict.useful:
        warnings.warn(str(training.verdict), stacklevel=2)
    return dot


class DotTraining:
    """The training of one Dot by regression, each point relative to the error of having no Dot.

    `|| z_s + eta(x, t; ...) - theta(x, t) ||^2 / (e + FLOOR)`, with means over the pixels as norms;
    e is the lesser error of z_s and of `z_s + miss`: where the solver has added noise, the first
    says nothing of how hard the point is. With conditions theta is Dash's estimate under one; of a
    guided Dot it is the guided estimate `theta_u + w (theta_c - theta_u)`, and so are z_s and z_p.

    Two kinds of points (x, t) in each batch. On data: x_p is a noised image, x_s the solver's jump
    from it, and x that from x_s; each jump goes to a time of at least a fifth. On the way of the
    sampler: random plans are run from noise, and Dash is asked at each point where a Dot step was
    taken. At first Dash takes these steps itself; then the current Dot does, which teaches it to
    correct its own drift. A visited point serves several batches, so it costs less than one on
    data, and needs none but prompts. Runs with prompts are guided; a Dot that works on each branch
    learns from both.

    Args:
        dot: a `Dot` of `unet`.
        unet: the Dash; only evaluated.
        images: `[n, C, H, W]` float32 in [-1, 1]; for a Dash with conditions `Captioned`, of
            latents if that is what it works on.
        noise_scheduler: the diffusers scheduler that Dash was trained with (`add_noise`).
        schedulers: the diffusers schedulers whose ways are walked.
        recipe: the numbers of the run.
        held_out: images for the validation loss, by bins of (t_s, t_s - t) beside the loss of a
            zero residual (the reuse of z_s).

    Raises:
        Refused: images, Dot, Dash and schedulers that do not fit each other.
    """

    def __init__(
        self,
        dot: Dot,
        unet: nn.Module,
        images: Tensor | Captioned,
        noise_scheduler: Any,
        schedulers: Sequence,
        recipe: DotRecipe,
        held_out: Tensor | Captioned | None = None,
    ):
        check_kinds(dot, unet, noise_scheduler, schedulers)
        unet.eval()
        prompts = partial(
            Prompts, dot=dot, unet=unet, dropout=recipe.dropout, guidance=recipe.guidance
        )
        self.dot, self.recipe = dot, recipe
        self.noise_scheduler, self.schedulers = noise_scheduler, schedulers
        self.prompts = prompts(images)
        check_training(dot, unet, images, noise_scheduler, held_out)
        dot.solvers = tuple(dict.fromkeys((*dot.solvers, *map(name_of, schedulers))))
        self.unseen = None if held_out is None else prompts(held_out)
        self.judge = Judge(self.unseen or self.prompts, schedulers, recipe.run_steps[1])
        self.visits = Visits(recipe.num_visits)
        self.levels = NoiseLevels.from_scheduler(noise_scheduler).to(self.prompts.device)
        self.verdict: Verdict | None = None  # once it is trained

    def run(self, out_dir: str | Path) -> Dot:
        """Train to the end, from the checkpoint in the folder if there is one."""
        self.out_dir = checks.path("out_dir", out_dir)
        fit = Fit(
            self.dot, self.loss, self.validate, out_dir, self.recipe,
            before_step=self.walk, state=self.visits, preview=self.judge.preview,
            about=of_training(self.dot, self.prompts.data, self.noise_scheduler, self.schedulers),
        )  # fmt: skip
        fit.run()
        if PartialState().is_main_process:
            self.verdict = self.judge.verdict(self.dot, self.out_dir)
        return self.dot

    # -- points --------------------------------------------------------------------------------

    @torch.no_grad()
    def data_batch(self, n: int, generator: torch.Generator, source: Prompts) -> dict[str, Tensor]:
        """n points on data, in the columns of `Visits`."""
        rows, _, _, x_p, t_p = noisy_batch(
            source.data, self.noise_scheduler, n, generator, source.device
        )
        shares = 0.8 * torch.rand((2, n), generator=generator).to(source.device)
        t_s = t_p - (shares[0] * t_p).ceil().long()
        t = t_s - (shares[1] * t_s).ceil().long()
        columns = source.columns(rows, generator)
        asked = source.asked(columns)
        trajectory = Trajectory.after(None, x_p, source.dash(x_p, t_p, asked), t_p)
        x_s = self.levels.jump(x_p, trajectory.z_s, t_p, t_s)
        trajectory = Trajectory.after(trajectory, x_s, source.dash(x_s, t_s, asked), t_s)
        x = self.levels.jump(x_s, trajectory.z_s, t_s, t)
        z = source.dash(x, t, asked)
        return {"x": x, "t": t, **trajectory._asdict(), "z": z, **columns}

    def walk(self, fit: Fit, step: int) -> None:
        """Visit new points once in `refresh_every` steps, at first four times as many."""
        recipe = self.recipe
        if step % recipe.refresh_every:
            return
        generator = step_generator(recipe.seed + 1, step, fit.accelerator.process_index)
        leader = self.dot if step >= recipe.own_way_from * recipe.num_steps else None
        way = (leader, self.prompts, self.schedulers, recipe.run_steps, recipe.batch_size)
        for _ in range(1 if self.visits.count else 4):
            fit.averaged(lambda: visit(*way, generator, self.visits))

    # -- losses --------------------------------------------------------------------------------

    def errors(
        self, model: nn.Module, batch: dict[str, Tensor], asked: Asked
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Squared errors of Dot, of a zero residual, and of the held clean image, `[B]` each."""

        def error(eta: Tensor | float) -> Tensor:
            return (batch["z_s"] + eta - batch["z"]).square().mean(dim=(1, 2, 3))

        eta = model(*(batch[name] for name in Visits.NAMES[:-1]), **asked.dot)
        held = self.levels.miss(*(batch[name] for name in ("x", "x_s", "z_s", "t", "t_s")))
        return error(eta), error(0.0), error(held)

    def loss(self, model: nn.Module, generator: torch.Generator) -> Tensor:
        """The mean over a batch of both kinds of points."""
        num_data = round(self.recipe.batch_size * self.recipe.data_share)
        num_visits = self.recipe.batch_size - num_data
        batch = self.visits.draw(num_visits, generator, self.prompts.device)
        if num_data:
            data = self.data_batch(num_data, generator, self.prompts)
            batch = {k: torch.cat([v, data[k].to(v)]) for k, v in batch.items()}
        ours, zero, held = self.errors(model, batch, self.prompts.asked(batch))
        return (ours / (torch.minimum(zero, held) + FLOOR)).mean()

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict:
        """Save the Dot, and measure it on the held-out images."""
        if PartialState().is_main_process:
            self.dot.save_pretrained(self.out_dir / "dot")
        if self.unseen is None:
            return {}
        generator, count = torch.Generator().manual_seed(0), len(self.unseen.data)
        # Latents of large models do not fit at once.
        size = self.recipe.batch_size if self.unseen.captioned else count
        times: list[Tensor] = []  # of each batch t_s and the gap
        errors: list[Tensor] = []  # and the three errors, [3, B]
        for first in range(0, count, size):
            batch = self.data_batch(min(size, count - first), generator, self.unseen)
            times.append(torch.stack([batch["t_s"], batch["t_s"] - batch["t"]]))
            errors.append(torch.stack(self.errors(model, batch, self.unseen.asked(batch))))
        t_s, gap = torch.cat(times, dim=1)
        ours, zero, _ = torch.cat(errors, dim=1)
        return {
            "held_out_loss": float(ours.mean()),
            "zero_residual": float(zero.mean()),
            "bins": loss_bins(t_s, gap, ours, zero, self.noise_scheduler),
        }


def loss_bins(
    t_s: Tensor, gap: Tensor, ours: Tensor, zero: Tensor, noise_scheduler: Any
) -> list[dict]:
    """Mean losses in 4 x 4 bins of (t_s, gap / t_s): where Dot helps, and where it does not."""
    row = (4 * t_s / noise_scheduler.config.num_train_timesteps).long().clamp(max=3)
    column = (5 * gap / t_s.clamp(min=1)).long().clamp(max=3)  # gaps reach 0.8 t_s
    bins = []
    for i in range(4):
        for j in range(4):
            here = (row == i) & (column == j)
            if here.any():
                where = {"t_s": [i / 4, (i + 1) / 4], "gap": [j / 5, (j + 1) / 5]}
                losses = {"loss": float(ours[here].mean()), "zero": float(zero[here].mean())}
                bins.append({**where, **losses, "n": int(here.sum())})
    return bins
