"""ComfyUI node: a SAMPLER that asks the model at some steps only, and continues it in between.

It holds no model and no weights, so ComfyUI may move, patch or unload them between two runs. Masks,
guidance and previews are ComfyUI's own, around the function that it calls.
"""

from collections.abc import Callable

from torch import Tensor

from ..sampling.plan import Plan
from ..system.errors import Refused
from . import k_diffusion


class SamplerMorse:
    """Node "Sampler Morse", for SamplerCustom and SamplerCustomAdvanced."""

    DESCRIPTION = (
        "Asks the model at some of the steps, and continues what it said in between. To compare at "
        "equal time: `-:` with 20 steps takes as long as `-` with 10."
    )
    CATEGORY = "sampling/custom_sampling/samplers"
    RETURN_TYPES = ("SAMPLER",)
    FUNCTION = "get_sampler"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        """The inputs, as ComfyUI asks for them."""
        plan = (
            "Morse code, repeated over the steps: '-' asks the model, ':' continues its clean "
            "images on a line, '.' its noise"
        )
        clamp = "the most that a latent may be at a ':' step, of either sign; 0: without bounds"
        solver = (
            "of every step; with '-' alone the result is that of ComfyUI's sampler of this name"
        )
        between = "what '.' steps do with the model's last estimates"
        return {
            "required": {
                "plan": ("STRING", {"default": "-:", "tooltip": plan}),
                "solver": (["dpmpp_2m", "euler"], {"tooltip": solver}),
                "between": (["extrapolate", "reuse"], {"tooltip": between}),
            },
            # Graphs that were saved without it go on working.
            "optional": {
                "clamp": (
                    "FLOAT",
                    {"default": 0.0, "min": 0.0, "max": 100.0, "step": 0.01, "tooltip": clamp},
                ),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, plan: str | None = None) -> bool | str:
        """True, or what is wrong with the plan; asked before anything is computed.

        A plan that another node makes is None here, and looked at when the graph runs.
        """
        try:
            if plan is not None:
                Plan(_without_blanks(plan))
        except Refused as error:
            return str(error)
        return True

    def get_sampler(self, plan: str, solver: str, between: str, clamp: float = 0.0) -> tuple:
        """The node's output, a `comfy.samplers.KSAMPLER`."""
        import comfy.samplers  # of the ComfyUI that has loaded this

        residuals: dict[str, Callable[..., Tensor]] = {
            "extrapolate": k_diffusion.extrapolate,
            "reuse": k_diffusion.reuse,
        }
        held = (-clamp, clamp) if clamp else None
        made = k_diffusion.sampler(
            _without_blanks(plan), residuals[between], solver=solver, clean_range=held
        )
        return (comfy.samplers.KSAMPLER(made),)


def _without_blanks(plan: str) -> str:
    """A text node ends lines, and people group steps."""
    return "".join(plan.split())


NODE_CLASS_MAPPINGS = {"SamplerMorse": SamplerMorse}
NODE_DISPLAY_NAME_MAPPINGS = {"SamplerMorse": "Sampler Morse"}
