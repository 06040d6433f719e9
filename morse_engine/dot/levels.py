"""The noise levels that a model was trained with: x_t = alpha_t x_0 + sigma_t eps."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..system import checks
from ..system.checks import shown
from ..system.errors import Refused

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
NAMES = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")
OPTIONAL = ("rescale_betas_zero_snr",)  # saved where it is True
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace")
MOST_STEPS = 100_000  # that a model was trained with
TOLERANCE = 1e-3  # of alpha and sigma, within which two tables are one
# So far apart are the discrete and the continuous form of one schedule, most of it at t = 0.
TOLERANCE_CONTINUOUS = 0.02


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
        table = alphas_cumprod.float().clone()
        # Noise alone, alpha = 0, says nothing of the image to a model that predicts noise.
        lowest = 0.0 if prediction_type != "epsilon" else 1e-12
        if not ((table.diff() <= 0).all() and 1 >= table[0] > 0 and table[-1] >= lowest):
            raise Refused(
                f"{config} are no noise levels: alpha_bar goes from {table[0]:.3g} to "
                f"{table[-1]:.3g}, but has to fall from at most 1 to "
                f"{'0 or more' if lowest == 0 else 'more than 0'}"
            )
        self.register_buffer("alphas_cumprod", table, persistent=False)

    @classmethod
    def from_scheduler(cls, scheduler: Any = None) -> "NoiseLevels":
        """The levels of a diffusers scheduler with `alphas_cumprod`; default: `DDPMScheduler()`.

        Raises:
            Refused: a scheduler without `alphas_cumprod`, with betas given one by one, with a
                prediction type that is not in the table above, or with values that are no levels.
        """
        if scheduler is None:
            from diffusers import DDPMScheduler

            scheduler = DDPMScheduler()
        config = {} if isinstance(scheduler, type) else getattr(scheduler, "config", {})
        betas = config.get("trained_betas")
        if not hasattr(scheduler, "alphas_cumprod") or not config or betas is not None:
            raise Refused(
                f"{type(scheduler).__name__} is not a noise schedule of a Dot: give a scheduler "
                "with beta_start, beta_end and beta_schedule, such as DDPMScheduler()"
            )
        config = {name: config[name] for name in NAMES} | {
            name: True for name in OPTIONAL if config.get(name)
        }
        return cls(scheduler.alphas_cumprod, config["prediction_type"], config)

    @classmethod
    def from_config(cls, config: Any) -> "NoiseLevels":
        """The levels of a saved `config`, whose every value is checked before it is used.

        Raises:
            Refused: it is no dict, lacks a value, or has one of another type or out of range.
        """
        if not isinstance(config, dict):
            raise Refused(f"noise={shown(config)}: has to be a dict of {', '.join(NAMES)}")
        if missing := [name for name in NAMES if name not in config]:
            raise Refused(f"noise lacks {', '.join(missing)}")
        if more := sorted(map(shown, config.keys() - {*NAMES, *OPTIONAL})):
            raise Refused(f"noise has {', '.join(more)}, which no noise levels have")
        checks.integer("num_train_timesteps", config["num_train_timesteps"], 2, MOST_STEPS)
        for name in ("beta_start", "beta_end"):
            if not 0 < checks.positive(name, config[name]) < 1:
                raise Refused(f"{name}={config[name]}: has to be between 0 and 1")
        for name in OPTIONAL:
            checks.flag(name, config.get(name, False))
        from diffusers import DDPMScheduler

        schedule = config["beta_schedule"]
        if schedule not in BETA_SCHEDULES:
            raise Refused(
                f"beta_schedule={shown(schedule)}: choose one of {', '.join(BETA_SCHEDULES)}"
            )
        if config["prediction_type"] not in PREDICTION_TYPES:
            choices = ", ".join(PREDICTION_TYPES)
            raise Refused(f"prediction_type={shown(config['prediction_type'])}: one of {choices}")
        return cls.from_scheduler(DDPMScheduler(**config))

    def check(self, scheduler: Any) -> None:
        """Refuse a scheduler whose noise is not that of these levels, naming what differs."""
        config = scheduler.config
        continuous = "beta_min" in config and "beta_max" in config
        theirs = _continuous(config) if continuous else getattr(scheduler, "alphas_cumprod", None)
        who = f"{type(scheduler).__name__} and this Dot do not belong together"
        if not isinstance(theirs, Tensor) or config.get("use_flow_sigmas"):
            raise Refused(
                f"{who}: its noise is of another kind (flow matching, or exploding) than the "
                f"Dot's: {self._words()}; use a scheduler with betas, or a Dot that was trained "
                "with this one"
            )
        found = config.get("prediction_type", "epsilon")
        if found != self.prediction_type:
            raise Refused(
                f"{who}: prediction_type={found!r}, the Dot's Dash predicts "
                f"{self.prediction_type!r}; make the scheduler with "
                f"prediction_type={self.prediction_type!r}"
            )
        ours, theirs = self.alphas_cumprod.cpu(), theirs.float().cpu()
        if len(theirs) != len(ours):
            raise Refused(
                f"{who}: it has {len(theirs)} train timesteps, the Dot {len(ours)}; make the "
                f"scheduler with num_train_timesteps={len(ours)}"
            )
        apart = max(
            (theirs.sqrt() - ours.sqrt()).abs().max().item(),
            ((1 - theirs).sqrt() - (1 - ours).sqrt()).abs().max().item(),
        )
        if not apart <= (TOLERANCE_CONTINUOUS if continuous else TOLERANCE):
            differing = [n for n in NAMES if n in config and config[n] != self.config[n]]
            said = ", ".join(f"{n}={config[n]}" for n in differing) or "other betas"
            raise Refused(
                f"{who}: it has {said}, the Dot was trained with {self._words()}; make the "
                "scheduler with these"
            )

    def _words(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.config.items())

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

    def timestep(self, sigma: Tensor) -> Tensor:
        """The t `[]`, with fractions, where `at` has sigma_t = sigma alpha_t; at most the last."""
        # Falls with t. In float64: near 1 a rounding would be a thousandth of a step, and a Dot's
        # `miss` divides by the noise that is left there.
        alpha_bar = self.alphas_cumprod.double()
        wanted = (1 / (1 + sigma.to(alpha_bar) ** 2)).reshape(1)
        low = (torch.searchsorted(-alpha_bar, -wanted) - 1).clamp(0, len(alpha_bar) - 2)
        share = (alpha_bar[low] - wanted) / (alpha_bar[low] - alpha_bar[low + 1])
        return (low + share.clamp(0, 1))[0].to(sigma)

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

        With z(x, x_0, t) the output that stands for x_0 at (x, t), and
        `w = alpha_s / sqrt(alpha_s^2 + (sigma_s / 10)^2)`, which is 1 but at high noise:

            x_0   w x_0: of unit variance where dividing by a small alpha_s would blow up the error
            miss  z(x, w^2 x_0, t) - z_s: the image shrinks to what is known of it, by that error;
                  of v and of sample, where nothing is divided, z(x, x_0, t) - z_s

        `z_s + miss` holds the clean image: whatever noise a solver has added since is in it.

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
        weight = (alpha_s / (alpha_s**2 + sigma_s**2 / 100).sqrt())[:, None]
        alpha, sigma = alpha[:, None], sigma[:, None]
        held = weight**2 * x_0 if self.prediction_type == "epsilon" else x_0
        eps = (x - alpha * held) / sigma
        z = {"sample": held, "epsilon": eps, "v_prediction": alpha * eps - sigma * held}
        miss = z[self.prediction_type] - torch.stack((none, none, one), dim=1)
        return weight * x_0, miss

    def miss(self, x: Tensor, x_s: Tensor, z_s: Tensor, t: Tensor, t_s: Tensor) -> Tensor:
        """`miss` of `coordinates` for images `[B, C, H, W]` at times `[B]`."""
        of_x, of_x_s, of_z_s = self.coordinates(t, t_s)[1][:, :, None, None, None].unbind(1)
        return of_x * x + of_x_s * x_s + of_z_s * z_s


def _continuous(config: Any) -> Tensor:
    """alpha_bar of the variance-preserving SDE at the timesteps that a model is given.

    Source: Song et al. 2021 (arXiv 2011.13456), appendix B.
    """
    low, high = config["beta_min"], config["beta_max"]
    t = torch.linspace(0, 1, config["num_train_timesteps"])
    return (-t * low - t**2 * (high - low) / 2).exp()
