"""The noise levels that a model was trained with: x_t = alpha_t x_0 + sigma_t eps."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..system.errors import Refused

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
NAMES = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")


class NoiseLevels(nn.Module):
    """alpha_t and sigma_t of a variance-preserving model, and what its output z says about x_0.

        epsilon       z = eps                         x_0 = (x - sigma z) / alpha
        v_prediction  z = alpha eps - sigma x_0       x_0 = alpha x - sigma z
        sample        z = x_0

    Source: Ho et al. 2020 (arXiv 2006.11239); v: Salimans & Ho 2022 (arXiv 2202.00512), appendix D.
    """

    alphas_cumprod: Tensor

    def __init__(self, alphas_cumprod: Tensor, prediction_type: str, config: dict):
        super().__init__()
        if prediction_type not in PREDICTION_TYPES:
            choices = ", ".join(PREDICTION_TYPES)
            raise Refused(f"prediction_type={prediction_type!r} is not one of {choices}")
        self.prediction_type, self.config = prediction_type, config
        self.register_buffer("alphas_cumprod", alphas_cumprod.float().clone(), persistent=False)

    @classmethod
    def from_scheduler(cls, scheduler: Any = None) -> "NoiseLevels":
        """The levels of a diffusers scheduler with `alphas_cumprod`; default: `DDPMScheduler()`.

        Raises:
            Refused: a scheduler without `alphas_cumprod`, with betas given one by one, or with a
                prediction type that is not in the table above.
        """
        if scheduler is None:
            from diffusers import DDPMScheduler

            scheduler = DDPMScheduler()
        config = getattr(scheduler, "config", {})
        if not hasattr(scheduler, "alphas_cumprod") or config.get("trained_betas") is not None:
            raise Refused(
                f"{type(scheduler).__name__} is not a noise schedule of a Dot: give a scheduler "
                "with beta_start, beta_end and beta_schedule, such as DDPMScheduler"
            )
        config = {name: config[name] for name in NAMES}
        return cls(scheduler.alphas_cumprod, config["prediction_type"], config)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "NoiseLevels":
        # A cast to half precision is meant for weights: 1 - alpha_bar would lose all of its digits.
        table = self.alphas_cumprod
        super()._apply(fn, recurse)
        self.alphas_cumprod = table.to(self.alphas_cumprod.device)
        return self

    def at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t, `[B, 1, 1, 1]` float32; t `[B]`, fractions interpolated."""
        alpha, sigma = self._at(t)
        return alpha[:, None, None, None], sigma[:, None, None, None]

    def _at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = t.float().clamp(0, len(self.alphas_cumprod) - 1)
        low = t.floor().long()
        high = (low + 1).clamp(max=len(self.alphas_cumprod) - 1)
        alpha_bar = torch.lerp(self.alphas_cumprod[low], self.alphas_cumprod[high], t - low)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def estimates(self, x: Tensor, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x_0, eps) that the output z at (x, t) stands for; `[B, C, H, W]`, t `[B]`."""
        alpha, sigma = self.at(t)
        if self.prediction_type == "epsilon":
            return (x - sigma * z) / alpha, z
        if self.prediction_type == "sample":
            return z, (x - alpha * z) / sigma
        return alpha * x - sigma * z, alpha * z + sigma * x

    def jump(self, x_s: Tensor, z_s: Tensor, t_s: Tensor, t: Tensor) -> Tensor:
        """The DDIM step from t_s to t: `x = alpha_t x_0(x_s, z_s) + sigma_t eps(x_s, z_s)`.

        Shapes: x_s, z_s `[B, C, H, W]`; t_s, t `[B]`.  Source: Song et al. 2020, eq. 12.
        """
        x_0, eps = self.estimates(x_s, z_s, t_s)
        alpha, sigma = self.at(t)
        return alpha * x_0 + sigma * eps

    def coordinates(self, t: Tensor, t_s: Tensor) -> tuple[Tensor, Tensor]:
        """What a Dot looks at, (x_0 of the last Dash step, miss), as sums over (x, x_s, z_s).

        With z(x, x_0, t) the output that stands for x_0 at (x, t), `miss = z(x, x_0, t) - z_s`.
        Both are multiplied by `alpha_s / sqrt(alpha_s^2 + (sigma_s / 10)^2)`: they keep unit
        variance where dividing by a small alpha_s would only blow up Dash's error.

        Args:
            t, t_s: `[B]`, now and at the last Dash step.

        Returns:
            float32 `[B, 3]` twice, the coefficients of x, x_s and z_s.
        """
        (alpha_s, sigma_s), (alpha, sigma) = self._at(t_s), self._at(t)
        none, one = torch.zeros_like(alpha), torch.ones_like(alpha)
        if self.prediction_type == "sample":
            of_x_0 = (none, none, one)
        elif self.prediction_type == "epsilon":
            of_x_0 = (none, 1 / alpha_s, -sigma_s / alpha_s)
        else:
            of_x_0 = (none, alpha_s, -sigma_s)
        x_0, x = torch.stack(of_x_0, dim=1), torch.stack((one, none, none), dim=1)
        alpha, sigma = alpha[:, None], sigma[:, None]
        eps = (x - alpha * x_0) / sigma
        z = {"sample": x_0, "epsilon": eps, "v_prediction": alpha * eps - sigma * x_0}
        miss = z[self.prediction_type] - torch.stack((none, none, one), dim=1)
        weight = (alpha_s / (alpha_s**2 + sigma_s**2 / 100).sqrt())[:, None]
        return weight * x_0, weight * miss
