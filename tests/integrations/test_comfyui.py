"""The ComfyUI node, with a stand-in for the parts of `comfy.samplers` that it meets."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from morse_engine import Refused
from morse_engine.integrations import k_diffusion

FOLDER = Path(__file__).parents[2] / "examples/comfyui"
SIGMAS = torch.tensor([10.0, 5.0, 2.0, 1.0, 0.3, 0.0])


class KSAMPLER:
    """The documented signature, and what the real one does around a sampler."""

    def __init__(self, sampler_function, extra_options={}, inpaint_options={}):  # noqa: B006
        self.sampler_function, self.extra_options = sampler_function, extra_options

    def sample(
        self,
        model_wrap,
        sigmas,
        extra_args,
        callback,
        noise,
        latent_image=None,
        denoise_mask=None,
        disable_pbar=False,
    ):
        def masked(x, sigma, denoise_mask, **options):
            """Outside the mask x is the latent image with noise, and the answer that image."""
            if denoise_mask is None:
                return model_wrap(x, sigma, **options)
            kept = latent_image + noise * sigma[:, None, None, None]
            answer = model_wrap(x * denoise_mask + kept * (1 - denoise_mask), sigma, **options)
            return answer * denoise_mask + latent_image * (1 - denoise_mask)

        x = noise * sigmas[0] + (0 if latent_image is None else latent_image)
        each = callback and (lambda at: callback(at["i"], at["denoised"], at["x"], len(sigmas) - 1))
        return self.sampler_function(
            masked,
            x,
            sigmas,
            extra_args={**extra_args, "denoise_mask": denoise_mask},
            callback=each,
            disable=disable_pbar,
            **self.extra_options,
        )


@pytest.fixture
def nodes(monkeypatch):
    """The package, loaded from its folder as ComfyUI loads it."""
    comfy, samplers = ModuleType("comfy"), ModuleType("comfy.samplers")
    comfy.samplers, samplers.KSAMPLER = samplers, KSAMPLER
    monkeypatch.setitem(sys.modules, "comfy", comfy)
    monkeypatch.setitem(sys.modules, "comfy.samplers", samplers)
    return load()


def load():
    spec = importlib.util.spec_from_file_location("morse_engine_nodes", FOLDER / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def noise():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def model(x, sigma, model_options, seed):
    assert (model_options, seed) == ({"a": 1}, 7)
    return torch.tanh(x / (1 + sigma[:, None, None, None] ** 2).sqrt() + 0.3)


EXTRA = {"model_options": {"a": 1}, "seed": 7}


def test_it_loads_without_comfy():
    module = load()
    assert "comfy" not in sys.modules
    assert module.NODE_CLASS_MAPPINGS.keys() == module.NODE_DISPLAY_NAME_MAPPINGS.keys()


def test_the_node_is_as_comfyui_wants_it(nodes):
    (node,) = nodes.NODE_CLASS_MAPPINGS.values()
    assert node.RETURN_TYPES == ("SAMPLER",)
    assert isinstance(node.CATEGORY, str)
    inputs = node.INPUT_TYPES()["required"]
    defaults = {
        name: kind[0][0] if isinstance(kind[0], list) else kind[1]["default"]
        for name, kind in inputs.items()
    }
    assert node.VALIDATE_INPUTS(plan=defaults["plan"]) is True
    (made,) = getattr(node(), node.FUNCTION)(**defaults)
    assert isinstance(made, KSAMPLER)


@pytest.mark.parametrize("between", ["extrapolate", "reuse"])
@pytest.mark.parametrize("solver", k_diffusion.SOLVERS)
def test_a_run_in_comfyui(nodes, between, solver):
    (made,) = nodes.NODE_CLASS_MAPPINGS["SamplerMorse"]().get_sampler("-.", solver, between)
    seen = []
    out = made.sample(model, SIGMAS, EXTRA, lambda *at: seen.append(at), noise(), disable_pbar=True)
    run = k_diffusion.sampler("-.", getattr(k_diffusion, between), solver=solver)
    expected = run(model, 10 * noise(), SIGMAS, extra_args=EXTRA, disable=True)
    assert torch.equal(out, expected)
    assert [at[0] for at in seen] == list(range(5))
    assert {at[3] for at in seen} == {5}


@pytest.mark.parametrize("between", ["extrapolate", "reuse"])
def test_what_a_mask_keeps_is_kept_in_dot_steps_too(nodes, between):
    """Its noise is the same at all levels, so both residuals are zero there."""
    (made,) = nodes.NODE_CLASS_MAPPINGS["SamplerMorse"]().get_sampler("-..", "dpmpp_2m", between)
    latent, mask = torch.full((2, 4, 8, 8), 0.7), torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    out = made.sample(model, SIGMAS, EXTRA, None, noise(), latent, mask, disable_pbar=True)
    torch.testing.assert_close(out[..., 4:], latent[..., 4:], rtol=0, atol=1e-5)
    assert (out[..., :4] - latent[..., :4]).abs().mean() > 0.1


@pytest.mark.parametrize("clamp", [0.0, 0.4])
def test_free_steps(nodes, clamp):
    (made,) = nodes.NODE_CLASS_MAPPINGS["SamplerMorse"]().get_sampler(
        "-:", "dpmpp_2m", "extrapolate", clamp=clamp
    )
    out = made.sample(model, SIGMAS, EXTRA, None, noise(), disable_pbar=True)
    held = (-clamp, clamp) if clamp else None
    run = k_diffusion.sampler("-:", clean_range=held)
    assert torch.equal(out, run(model, 10 * noise(), SIGMAS, extra_args=EXTRA, disable=True))


def test_what_a_mask_keeps_is_kept_in_free_steps_too(nodes):
    """Both clean images are the image there, so the line through them is."""
    (made,) = nodes.NODE_CLASS_MAPPINGS["SamplerMorse"]().get_sampler("-::", "dpmpp_2m", "reuse")
    latent, mask = torch.full((2, 4, 8, 8), 0.7), torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    out = made.sample(model, SIGMAS, EXTRA, None, noise(), latent, mask, disable_pbar=True)
    torch.testing.assert_close(out[..., 4:], latent[..., 4:], rtol=0, atol=1e-5)


def test_nothing_of_the_model_is_kept(nodes):
    """ComfyUI patches and moves weights between runs: the next run asks the model anew."""
    (made,) = nodes.NODE_CLASS_MAPPINGS["SamplerMorse"]().get_sampler("-.", "euler", "extrapolate")
    scale = torch.ones(1)

    def patched(x, sigma, **options):
        return scale * model(x, sigma, **options)

    first = made.sample(patched, SIGMAS, EXTRA, None, noise(), disable_pbar=True)
    scale.fill_(0.0)
    assert not made.sample(patched, SIGMAS, EXTRA, None, noise(), disable_pbar=True).any()
    scale.fill_(1.0)
    assert torch.equal(made.sample(patched, SIGMAS, EXTRA, None, noise(), disable_pbar=True), first)


@pytest.mark.parametrize(
    ("plan", "said"),
    [(".-", "has to be a Dash"), ("-x", "'x' at position 1"), ("", "at least one")],
)
def test_a_wrong_plan_is_said_before_the_run(nodes, plan, said):
    assert said in nodes.NODE_CLASS_MAPPINGS["SamplerMorse"].VALIDATE_INPUTS(plan=plan)


def test_a_plan_of_another_node(nodes):
    """ComfyUI knows it only when the graph runs, and a text node ends its lines."""
    node = nodes.NODE_CLASS_MAPPINGS["SamplerMorse"]
    assert node.VALIDATE_INPUTS() is True
    assert node.VALIDATE_INPUTS(plan=None) is True
    assert node.VALIDATE_INPUTS(plan="- . :\n") is True
    made = [node().get_sampler(plan, "euler", "reuse")[0] for plan in (" -.\n:", "-.:")]
    first, second = (m.sample(model, SIGMAS, EXTRA, None, noise(), disable_pbar=True) for m in made)
    assert torch.equal(first, second)
    with pytest.raises(Refused, match="'x' at position 1"):
        node().get_sampler("-x", "euler", "reuse")
