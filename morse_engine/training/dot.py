"""Training of a Dash and of a Dot: two losses for one loop (`fit.py`)."""

from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor, nn

from ..dot.levels import NoiseLevels
from ..sampling.loop import sample
from ..sampling.plan import Plan
from ..sampling.solver import SolverTable
from ..system.errors import Refused
from .fit import Fit, step_generator, stratified
from .prompts import Asked, Captioned, Prompts

FLOOR = 4e-4  # squared error of z below which a point is not worth more: 2 % of unit noise


def noisy_batch(images: Tensor, noise_scheduler, batch_size: int, generator, device):
    """Data, time and noise of one batch: `x_t = alpha_t x_0 + sigma_t eps`, t stratified.

    Returns:
        `(rows, x_0, eps, x_t, t)`: which images, `[B]` int64 on the CPU; images `[B, C, H, W]` and
        t `[B]` int64, on `device`.
    """
    rows = torch.randint(len(images), (batch_size,), generator=generator)
    x_0 = images[rows].float()  # latents are kept in half precision
    eps = torch.randn(x_0.shape, generator=generator)
    t = (stratified(batch_size, generator) * noise_scheduler.config.num_train_timesteps).long()
    x_t = noise_scheduler.add_noise(x_0, eps, t)
    return rows, x_0.to(device), eps.to(device), x_t.to(device), t.to(device)


def train_dash(
    unet: nn.Module,
    images: Tensor,
    noise_scheduler,
    out_dir: str | Path,
    *,
    num_steps: int = 8000,
    batch_size: int = 128,
    lr: float = 1.5e-3,
    held_out: Tensor | None = None,
    **fit_options,
) -> nn.Module:
    """Train a Dash by the simple denoising loss `|| unet(x_t, t) - target ||^2`.

    Args:
        unet: a diffusers `UNet2DModel`.
        images: `[n, C, H, W]` float32 in [-1, 1].
        noise_scheduler: a diffusers scheduler with `add_noise`; `prediction_type` sets the target.
        out_dir: folder for checkpoint and log; an interrupted run continues from it.
        held_out: images for the validation loss, logged at each checkpoint.
        fit_options: see `Fit`.

    Returns:
        the unet with averaged weights.

    Source: Ho et al. 2020 (arXiv 2006.11239), eq. 14; v-prediction: Salimans & Ho 2022, appendix D.
    """
    kind = noise_scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction", "sample"):
        raise Refused(f"prediction_type={kind!r}: use epsilon, v_prediction or sample")

    def loss(model, generator, data=images) -> Tensor:
        device = next(model.parameters()).device
        _, x_0, eps, x_t, t = noisy_batch(data, noise_scheduler, batch_size, generator, device)
        if kind == "epsilon":
            target = eps
        elif kind == "sample":
            target = x_0
        else:
            target = noise_scheduler.get_velocity(x_0, eps, t)
        return nn.functional.mse_loss(model(x_t, t).sample, target)

    @torch.no_grad()
    def validate(model) -> dict:
        generator = torch.Generator().manual_seed(0)
        return {"held_out_loss": float(loss(model, generator, held_out))}

    fit = Fit(
        unet,
        loss,
        out_dir,
        num_steps=num_steps,
        lr=lr,
        validate=validate if held_out is not None else None,
        **fit_options,
    )
    return fit.run()


# -- Dot -------------------------------------------------------------------------------------------


class Visits:
    """The last `size` points that the sampler visited with Dot, and what Dash says there.

    A ring of rows `(x, t, x_s, z_s, t_s, z_p, t_p, z)`; z is the target, Dash's own at (x, t). With
    conditions they have the columns of `Prompts` as well: what was asked with, not its tensors.
    """

    NAMES = ("x", "t", "x_s", "z_s", "t_s", "z_p", "t_p", "z")

    def __init__(self, size: int):
        self.size, self.count = size, 0
        self.rows: dict[str, Tensor] = {}

    def add(self, **batch: Tensor) -> None:
        at = torch.arange(self.count, self.count + len(batch["x"])) % self.size
        for name, value in batch.items():
            value = value.detach().cpu()
            if name not in self.rows:
                self.rows[name] = torch.zeros((self.size, *value.shape[1:]), dtype=value.dtype)
            self.rows[name][at] = value
        self.count += len(batch["x"])

    def draw(self, n: int, generator: torch.Generator, device) -> dict[str, Tensor]:
        at = torch.randint(min(self.count, self.size), (n,), generator=generator)
        return {name: rows[at].to(device) for name, rows in self.rows.items()}

    def state_dict(self) -> dict:
        return {"count": self.count, "rows": self.rows}

    def load_state_dict(self, content: dict) -> None:
        self.count = content["count"]
        self.rows = {name: rows.cpu() for name, rows in content["rows"].items()}


def visit(dot, prompts: Prompts, schedulers, run_steps, batch_size: int, generator, visits) -> None:
    """Sample one random plan with one random solver, and keep every point where Dot was asked.

    Plans have `run_steps` (least, most) steps and 1 to 6 Dot steps for each Dash step. With
    `dot=None` Dash's own answer is the Dot step: the way of a perfect Dot.
    """

    def pick(choices):
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    num_steps = pick(range(run_steps[0], run_steps[1] + 1))
    dots_per_dash = pick((1, 2, 3, 4, 6))
    num_dash = max(1, round(num_steps / (1 + dots_per_dash)))
    plan = Plan.spread(num_dash, num_steps - num_dash)
    table = SolverTable.from_scheduler(pick(schedulers), num_steps)
    shape, device = (batch_size, *prompts.data.shape[1:]), prompts.device
    start = torch.randn(shape, generator=generator).to(device)
    seeds = torch.randint(2**62, (batch_size,), generator=generator).tolist()
    columns, scale = prompts.run(batch_size, generator)
    asked = prompts.asked(columns)

    def dash(x, t, **cond):
        return prompts.unet(x, t, **cond).sample.float()

    def watched(x, t, x_s, z_s, t_s, z_p, t_p, **_):
        z = prompts.dash(x, t, asked)
        one = torch.ones(len(x), dtype=torch.float32, device=device)
        times = {"t": t * one, "t_s": t_s * one, "t_p": t_p * one}
        visits.add(x=x, x_s=x_s, z_s=z_s, z_p=z_p, z=z, **times, **columns)
        return z - z_s if dot is None else dot(x, t, x_s, z_s, t_s, z_p, t_p, **asked.dot)

    guided_dot = prompts.guided
    sample(dash, watched, plan, table, start, seeds, asked.dash, scale, guided_dot=guided_dot)


def train_dot(
    dot: nn.Module,
    unet: nn.Module,
    images: Tensor | Captioned,
    noise_scheduler,
    out_dir: str | Path,
    *,
    schedulers,
    num_steps: int = 6000,
    batch_size: int = 64,
    lr: float = 3e-3,
    own_way_from: float = 0.08,
    data_share: float = 0.1,
    num_visits: int = 8192,
    refresh_every: int = 40,
    run_steps: tuple[int, int] = (4, 32),
    dropout: float = 0.1,
    guidance: tuple[float, float] = (2.0, 12.0),
    held_out: Tensor | Captioned | None = None,
    **fit_options,
) -> nn.Module:
    """Train a Dot by regression, each point relative to the error of a zero residual.

    `|| z_s + eta(x, t; ...) - theta(x, t) ||^2 / (|| z_s - theta(x, t) ||^2 + FLOOR)`, with means
    over the pixels as norms. With conditions theta is Dash's estimate under one; of a guided Dot
    it is the guided estimate `theta_u + w (theta_c - theta_u)`, and so are z_s and z_p.

    Two kinds of points (x, t) in each batch. On data: x_p is a noised image, x_s the solver's jump
    from it, and x that from x_s; each jump goes to a time of at least a fifth. On the way of the
    sampler: random plans are run from noise, and Dash is asked at each point where a Dot step was
    taken. At first Dash takes these steps itself; then the current Dot does, which teaches it to
    correct its own drift. A visited point serves several batches, so it costs less than one on
    data, and needs none but prompts. Runs with prompts are guided; a Dot that works on each branch
    learns from both.

    At each checkpoint the Dot with averaged weights is saved in `out_dir`/dot.

    Args:
        dot: a `Dot` of `unet`.
        unet: the Dash; only evaluated.
        images: `[n, C, H, W]` float32 in [-1, 1]; for a Dash with conditions `Captioned`, of
            latents if that is what it works on.
        noise_scheduler: the diffusers scheduler that Dash was trained with (`add_noise`).
        schedulers: the diffusers schedulers whose ways are walked.
        own_way_from: the part of the run after which Dot leads.
        data_share: the part of each batch that is data.
        num_visits: how many visited points are kept.
        refresh_every: training steps between two walks of `batch_size` images.
        run_steps: the least and the most steps of a walk.
        dropout: the part of the points on data that has the empty prompt; for a guided Dot none.
        guidance: the range of the guidance scale w.
        held_out: images for the validation loss, by bins of (t_s, t_s - t) beside the loss of a
            zero residual (the reuse of z_s).
        fit_options: see `Fit`.

    Returns:
        the dot with averaged weights.

    Raises:
        Refused: images, Dot and Dash that do not fit each other, or a number out of range.

    Source: Morse (arXiv 2506.18251), section 3.3; the divisor and the points on the way are ours.
    """
    unet.eval()
    asking = {"dropout": dropout, "guidance": guidance}
    prompts = Prompts(images, dot, unet, **asking)
    unseen = Prompts(held_out, dot, unet, **asking) if held_out is not None else None
    device = prompts.device
    visits = Visits(num_visits)
    levels = NoiseLevels.from_scheduler(noise_scheduler).to(device)
    seed = fit_options.get("seed", 0)

    @torch.no_grad()
    def data_batch(n: int, generator, source: Prompts) -> tuple[dict[str, Tensor], Asked]:
        rows, _, _, x_p, t_p = noisy_batch(source.data, noise_scheduler, n, generator, device)
        shares = 0.8 * torch.rand((2, n), generator=generator).to(device)
        t_s = t_p - (shares[0] * t_p).ceil().long()
        t = t_s - (shares[1] * t_s).ceil().long()
        columns = source.columns(rows, generator)
        asked = source.asked(columns)
        z_p = source.dash(x_p, t_p, asked)
        x_s = levels.jump(x_p, z_p, t_p, t_s)
        z_s = source.dash(x_s, t_s, asked)
        x = levels.jump(x_s, z_s, t_s, t)
        points = {"x": x, "x_s": x_s, "z_s": z_s, "z_p": z_p, "z": source.dash(x, t, asked)}
        return {**points, "t": t, "t_s": t_s, "t_p": t_p, **columns}, asked

    def errors(model, batch: dict[str, Tensor], asked: Asked) -> tuple[Tensor, Tensor]:
        """Squared errors of Dot and of a zero residual, `[B]` each."""
        eta = model(*(batch[name] for name in Visits.NAMES[:-1]), **asked.dot)
        ours = (batch["z_s"] + eta - batch["z"]).square().mean(dim=(1, 2, 3))
        return ours, (batch["z_s"] - batch["z"]).square().mean(dim=(1, 2, 3))

    def loss(model, generator) -> Tensor:
        num_data = round(batch_size * data_share)
        batch = visits.draw(batch_size - num_data, generator, device)
        if num_data:
            data, _ = data_batch(num_data, generator, prompts)
            batch = {k: torch.cat([v, data[k].to(v)]) for k, v in batch.items()}
        ours, zero = errors(model, batch, prompts.asked(batch))
        return (ours / (zero + FLOOR)).mean()

    def walk(fit: Fit, step: int) -> None:
        if step % refresh_every:
            return
        generator = step_generator(seed + 1, step, fit.accelerator.process_index)
        leader = dot if step >= own_way_from * num_steps else None
        for _ in range(1 if visits.count else 4):
            args = (leader, prompts, schedulers, run_steps, batch_size, generator, visits)
            fit.averaged(lambda args=args: visit(*args))

    @torch.no_grad()
    def validate(model) -> dict:
        if PartialState().is_main_process:
            dot.save_pretrained(Path(out_dir) / "dot")
        if unseen is None:
            return {}
        generator = torch.Generator().manual_seed(0)
        # Latents of large models do not fit at once.
        size = batch_size if unseen.captioned else len(held_out)
        times, ours, zero = [], [], []
        for first in range(0, len(held_out), size):
            count = min(size, len(held_out) - first)
            batch, asked = data_batch(count, generator, unseen)
            times.append(torch.stack([batch["t_s"], batch["t_s"] - batch["t"]]))
            for found, error in zip((ours, zero), errors(model, batch, asked), strict=True):
                found.append(error)
        times, ours, zero = torch.cat(times, dim=1), torch.cat(ours), torch.cat(zero)
        return {
            "held_out_loss": float(ours.mean()),
            "zero_residual": float(zero.mean()),
            "bins": loss_bins(*times, ours, zero, noise_scheduler),
        }

    fit = Fit(
        dot,
        loss,
        out_dir,
        num_steps=num_steps,
        lr=lr,
        validate=validate,
        before_step=walk,
        state=visits,
        **fit_options,
    )
    return fit.run()


def loss_bins(t_s: Tensor, gap: Tensor, ours: Tensor, zero: Tensor, noise_scheduler) -> list[dict]:
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
