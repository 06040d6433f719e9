"""What a scheduler's z says of the clean image, and where calls lie on the line of free steps."""

from math import exp, inf, log, sqrt
from typing import Any

import torch
from torch import Tensor

#: Noise, with the deviation of the data as the unit, below which a clean image changes with the
#: noise itself, above it with its logarithm: see `place`.
SETTLED = 10.0

# Options that space the steps by their noise, and no longer evenly in the timestep.
_SPACED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")


def clean(kind: str | None, scheduler: Any, i: int) -> tuple[float, float]:
    """(U, V): the clean image that z at x stands for in call i is U x + V z.

    Args:
        kind: the diffusers class, as `probe.kind_of` has it.
        scheduler: set to its timesteps. Infinite where it says that x holds nothing of the image.
    """
    config = scheduler.config
    predicts = config.get("prediction_type", "epsilon")
    if kind == "ScoreSdeVe":  # z is the score
        return 1.0, float(scheduler.sigmas[i]) ** 2
    if kind == "ScoreSdeVp":
        t = float(scheduler.timesteps[i])
        low, high = config.beta_min, config.beta_max
        alpha = exp(-0.25 * t**2 * (high - low) - 0.5 * t * low)
        sigma = sqrt(1 - alpha**2)
    elif kind in ("DDPM", "DDIM", "LCM", "PNDM"):
        alpha_bar = float(scheduler.alphas_cumprod[int(scheduler.timesteps[i])])
        alpha, sigma = sqrt(alpha_bar), sqrt(1 - alpha_bar)
    else:
        sigma = float(scheduler.sigmas[i])
        if kind == "FlowMatchEulerDiscrete" or predicts == "flow_prediction":
            return 1.0, -sigma
        alpha = 1 / sqrt(1 + sigma**2)
        if kind in ("EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete"):  # x is x0 + s eps
            return {"epsilon": (1.0, -sigma), "sample": (0.0, 1.0)}.get(
                predicts, (alpha**2, -sigma * alpha)
            )
        sigma *= alpha
    if predicts == "sample":
        return 0.0, 1.0
    if predicts == "v_prediction":
        return alpha, -sigma
    return (1 / alpha, -sigma / alpha) if alpha else (inf, -inf)


def place(sigma: float) -> float:
    """Where a call at noise sigma lies on the line of free steps, where times do not say it.

        log(10 + sigma)

    Near the end of a run the noise falls by powers and the clean image hardly changes: by log sigma
    the line goes far beyond it there. 10 was measured beside 1, 3, log sigma and the timestep, on
    three models with Karras' sigmas (docs/architecture.md).
    """
    return log(SETTLED + sigma)


def places(kind: str | None, scheduler: Any) -> Tensor:
    """Where all calls of a scheduler that is set to its timesteps lie on the line: float64 `[n]`.

    The timestep; for sigmas of Karras and the like, whose timesteps are rounded and uneven,
    `place`; for the VE SDE the logarithm of its noise.
    """
    count = len(scheduler.timesteps)
    if kind == "ScoreSdeVe":
        return scheduler.sigmas[:count].cpu().double().log()
    if any(scheduler.config.get(option) for option in _SPACED) and hasattr(scheduler, "sigmas"):
        found = [place(sigma) for sigma in scheduler.sigmas[:count].tolist()]
        return torch.tensor(found, dtype=torch.float64)
    return scheduler.timesteps.cpu().double()
