"""`compile(unet, dot)`: from two models, a scheduler and a plan to a sampler that makes images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from . import kernels
from . import noise as philox
from .dot import Dot
from .plan import Plan
from .sampler import sample
from .solver import SolverTable
from .speed import Speed, measure_speed
from .steps import Steps

BACKENDS = {
    "eager": None,
    "host": None,
    "device": "the one-launch loop is not part of this release",
}
DEFAULT_DASH_STEPS, DEFAULT_BUDGET = 50, 10.0


def compile(
    unet: Callable[..., Tensor],
    dot: Callable[..., Tensor] | None = None,
    *,
    scheduler=None,
    plan: "Plan | str | float | None" = None,
    backend: str = "auto",
    dot_speed: float | None = None,
    shape: Sequence[int] | None = None,
    merge_dot: bool = True,
) -> "Sampler":
    """Make a sampler that runs `plan` with Dash `unet` and the residual model `dot`.

    Args:
        unet: a diffusers `UNet2DModel` or `UNet2DConditionModel`, or any
            `eps(x, timestep, **cond) -> Tensor`.
        dot: a `Dot` of this unet, or any
            `eta(x, timestep, x_s, z_s, timestep_s, z_p, timestep_p, **cond) -> Tensor`.
        scheduler: a diffusers scheduler; default: DDIM with trailing steps on 1,000 linear betas.
        plan: Morse code such as `"-..-..-.."`, a `Plan`, or a budget in LSD (latency of one Dash
            step). Default: a budget of 10 LSD with a Dot, 50 Dash steps without.
        backend: "eager", the specification in plain PyTorch; "host", the same two steps over static
            memory with the fused kernels, launched one by one (on a CPU the kernels' references
            run); "auto" takes "eager" as long as "host" has not been measured on GPUs.
        dot_speed: N, Dot steps that fit in one LSD; only used to spend a budget. Default: measured
            here at batch 1.
        shape: `(C, H, W)` of one sample; default: from the unet's config.
        merge_dot: add Dot's LoRA into a private copy of its trunk: faster, and the trunk's weights
            are in memory once more. The copy is made here: a Dot changed later needs a new compile.

    Returns:
        a `Sampler`.

    Raises:
        ValueError: plan, scheduler, unet and dot do not fit each other.
        RuntimeError: the backend is not available; the message says why.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"backend={backend!r}: choose auto, {', '.join(BACKENDS)}")
    if backend != "auto" and BACKENDS[backend]:
        raise RuntimeError(f'backend "{backend}": {BACKENDS[backend]}; use "eager" or "auto"')
    if backend == "host" and _on_cuda(unet) and not kernels.available():
        raise RuntimeError('backend "host" needs Triton: pip install triton, or use "eager"')
    if not callable(unet):
        raise ValueError(f"unet is a {type(unet).__name__}, not a model or callable")
    config = getattr(unet, "config", None)
    if getattr(config, "out_channels", None) != getattr(config, "in_channels", None):
        raise ValueError(
            f"unet has {config.in_channels} input and {config.out_channels} output channels: "
            "models that also predict a variance are not supported"
        )
    if isinstance(dot, Dot):
        dot.check_dash(unet)
        if merge_dot:
            dot = dot.merged()
    elif dot is not None and not callable(dot):
        raise ValueError(f"dot is a {type(dot).__name__}, not a Dot or callable")
    if shape is None and config is not None and getattr(config, "sample_size", None):
        size = config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        shape = (config.in_channels, height, width)

    models = Models(unet, dot)
    if scheduler is None:
        from diffusers import DDIMScheduler

        scheduler = DDIMScheduler(timestep_spacing="trailing")
    if plan is None:
        plan = DEFAULT_BUDGET if dot is not None else "-" * DEFAULT_DASH_STEPS
    if isinstance(plan, (int, float)):
        if dot is None:
            plan = Plan.spread(int(plan), 0)
        else:
            if dot_speed is None:
                if shape is None:
                    raise ValueError(
                        "a budget in LSD needs dot_speed=, or shape=(C, H, W) to measure it"
                    )
                dot_speed = measure_speed(
                    models.dash, models.dot, shape, device=models.device
                ).dot_speed
            plan = Plan.from_budget(plan, dot_speed)
    elif isinstance(plan, str):
        plan = Plan(plan)
    if plan.num_dot and dot is None:
        raise ValueError(f'plan "{plan}" has {plan.num_dot} Dot steps, but there is no dot')
    table = SolverTable.for_calls(scheduler, len(plan))
    shape = tuple(shape) if shape is not None else None
    return Sampler(models, table, plan, shape, "eager" if backend == "auto" else backend)


class Models:
    """Dash and Dot as plain functions of float32 samples, whatever they are and compute in."""

    def __init__(self, unet, dot):
        self.unet, self.dot_model = unet, dot
        first = next(unet.parameters(), None) if isinstance(unet, nn.Module) else None
        self.device = first.device if first is not None else None
        self.dtype = first.dtype if first is not None else torch.float32
        self.dot = self._dot if dot is not None else None

    def dash(self, x: Tensor, timestep: Tensor, **cond) -> Tensor:
        z = self.unet(x.to(self.dtype), timestep, **cond)
        return getattr(z, "sample", z).to(x.dtype)

    def _dot(self, x: Tensor, timestep, x_s, z_s, timestep_s, z_p, timestep_p, **cond) -> Tensor:
        x_, x_s, z_s, z_p = (tensor.to(self.dtype) for tensor in (x, x_s, z_s, z_p))
        eta = self.dot_model(x_, timestep, x_s, z_s, timestep_s, z_p, timestep_p, **cond)
        return eta.to(x.dtype)


class Sampler:
    """A plan, a solver and two models, ready to make images. Made by `compile`."""

    def __init__(
        self,
        models: Models,
        table: SolverTable,
        plan: Plan,
        shape: tuple[int, ...] | None,
        backend: str,
    ):
        self.models, self.table, self.plan, self.shape = models, table, plan, shape
        self.backend = backend
        self._steps: Steps | None = None

    def __call__(
        self,
        noise: Tensor | None = None,
        *,
        batch_size: int | None = None,
        seed: int | Sequence[int] = 0,
        on_step: Callable[[int, int], None] | None = None,
        **cond: Tensor,
    ) -> Tensor:
        """Sample images; the image of a seed is the same in every batch.

        Args:
            noise: `[B, C, H, W]` float, unit variance (the solver's initial scale is applied here);
                default: drawn from the seeds.
            batch_size: number of images; default: that of `noise`, of the list of seeds, or 1.
            seed: of the first image (the next ones count up), or one int per image.
            on_step: called as `on_step(i, n)` after step i of n.
            cond: tensors that both models are given by keyword, e.g. `encoder_hidden_states`.

        Returns:
            `[B, C, H, W]` float32 in the range of the training data, not clamped.

        Raises:
            ValueError: shapes, batch size and seeds do not agree, or the noise is not finite.
        """
        seeds = self._seeds(noise, batch_size, seed)
        device = self.models.device
        if noise is None:
            if self.shape is None:
                raise ValueError(
                    "pass noise=, or shape=(C, H, W) to compile(): the model has no config"
                )
            noise = philox.normal(seeds, philox.INITIAL, self.shape, device=device)
        self._check_noise(noise)
        noise = noise.to(device=device, dtype=torch.float32)
        if self.backend == "host":
            return self._host_steps(noise).run(noise, seeds, cond, on_step)
        args = (self.models.dash, self.models.dot, self.plan, self.table, noise, seeds)
        with kernels.references():
            return sample(*args, cond, on_step)

    def _host_steps(self, noise: Tensor) -> Steps:
        """The steps for batches of this shape; those of the last shape are kept."""
        if self._steps is None or self._steps.state.x.shape != noise.shape:
            models = self.models
            dot = models.dot_model if isinstance(models.dot_model, Dot) else models.dot
            args = (models.dash, dot, self.plan, self.table, noise.shape)
            self._steps = Steps(*args, models.dtype, noise.device)
        return self._steps

    def _seeds(self, noise, batch_size, seed) -> list[int]:
        given = None if isinstance(seed, int) else [int(s) for s in seed]
        if noise is not None and not isinstance(noise, Tensor):
            raise ValueError(f"noise is a {type(noise).__name__}: pass a tensor [B, C, H, W]")
        counts = {
            "noise": None if noise is None else noise.shape[0] if noise.ndim else 0,
            "batch_size": batch_size,
            "seed": None if given is None else len(given),
        }
        known = {name: n for name, n in counts.items() if n is not None}
        if len(set(known.values())) > 1:
            said = ", ".join(f"{name}: {n}" for name, n in known.items())
            raise ValueError(f"the number of images is not one number ({said})")
        count = next(iter(known.values()), 1)
        if count < 1:
            raise ValueError(f"{next(iter(known))} asks for {count} images: at least 1")
        return given if given is not None else [seed + i for i in range(count)]

    def _check_noise(self, noise: Tensor) -> None:
        if noise.ndim != 4 or not noise.is_floating_point():
            raise ValueError(
                f"noise is {tuple(noise.shape)} {noise.dtype}: pass floats [B, C, H, W]"
            )
        if self.shape is not None and tuple(noise.shape[1:]) != self.shape:
            raise ValueError(
                f"noise has images of {tuple(noise.shape[1:])}, the model of {self.shape}: "
                "another size needs shape= in compile()"
            )
        if not torch.isfinite(noise).all():
            raise ValueError("noise holds NaN or infinite values")

    def measure(self, batch_size: int = 1) -> Speed:
        """Measure LSD, Dot's latency and N at a batch size (some seconds)."""
        if self.shape is None:
            raise ValueError(
                "measuring needs shape=(C, H, W) in compile(): the model has no config"
            )
        device = self.models.device
        return measure_speed(
            self.models.dash, self.models.dot, self.shape, batch_size=batch_size, device=device
        )

    def report(self, *, measure: bool = False, batch_size: int = 1) -> "Report":
        """What runs and why; with `measure=True` also the latencies at `batch_size`."""
        return Report(
            backend=self.backend,
            not_available=[f"{name}: {why}" for name, why in BACKENDS.items() if why],
            plan=self.plan,
            solver=self.table.name,
            device=str(self.models.device or "cpu"),
            dash_bytes=_bytes(self.models.unet),
            dot_bytes=_bytes(self.models.dot_model, beside=self.models.unet),
            batch_size=batch_size,
            speed=self.measure(batch_size) if measure else None,
        )


@dataclass(frozen=True)
class Report:
    """What a sampler runs: backend, plan, memory, and latencies when they were measured.

    `lsd_ms` and `dot_ms` are ms per step of a batch, `dot_speed` is N, `cost_lsd` the plan's price.
    """

    backend: str
    not_available: list[str]
    plan: Plan
    solver: str
    device: str
    dash_bytes: int
    dot_bytes: int
    batch_size: int
    speed: Speed | None

    @property
    def lsd_ms(self) -> float | None:
        return self.speed.lsd_ms if self.speed else None

    @property
    def dot_ms(self) -> float | None:
        return self.speed.dot_ms if self.speed else None

    @property
    def dot_speed(self) -> float | None:
        return self.speed.dot_speed if self.speed else None

    @property
    def cost_lsd(self) -> float | None:
        if not self.plan.num_dot:
            return float(self.plan.num_dash)
        return self.plan.lsd(self.dot_speed) if self.dot_speed else None

    def __str__(self) -> str:
        lines = [
            f"plan      {self.plan}   ({self.plan.num_dash} Dash, {self.plan.num_dot} Dot)",
            f"solver    {self.solver}",
            f"backend   {self.backend} on {self.device}"
            + "".join(f"\n          not {reason}" for reason in self.not_available),
            f"memory    Dash {self.dash_bytes / 2**20:.1f} MiB, "
            f"Dot {self.dot_bytes / 2**20:.1f} MiB more",
        ]
        if self.speed is None:
            lines.append("latency   not measured: report(measure=True)")
        else:
            lines.append(f"latency   LSD {self.lsd_ms:.2f} ms at batch {self.batch_size}")
            if self.dot_ms:
                lines[-1] += f", Dot {self.dot_ms:.2f} ms, N = {self.dot_speed:.1f}"
                gain = self.plan.gain(self.dot_speed)
                lines.append(
                    f"cost      {self.cost_lsd:.2f} LSD for {len(self.plan)} steps: "
                    f"at most {gain:.2f}x against Dash alone"
                )
        return "\n".join(lines)


def _on_cuda(model) -> bool:
    return isinstance(model, nn.Module) and any(p.is_cuda for p in model.parameters())


def _bytes(model, beside=None) -> int:
    """Bytes of the parameters of `model`, those that `beside` holds too left out."""

    def storages(module) -> dict[int, int]:
        if not isinstance(module, nn.Module):
            return {}
        return {p.data_ptr(): p.numel() * p.element_size() for p in module.parameters()}

    shared = storages(beside)
    return sum(size for at, size in storages(model).items() if at not in shared)
