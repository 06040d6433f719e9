"""What a Dot asks of a family of models: Dash's inner layers, and what they make of time and text.

A family is one class in one file, named in `FAMILIES` of `families.py`; `unet.py` is the first. All
else of a Dot is the same for every family: its own blocks, the gains, training, steps and files.
"""

import copy
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)

DASH_ONLY = "dash_only"  # keyword of what Dash is given and no Dot


class Given(NamedTuple):
    """What the weights make of a run's conditioning: the same in each of its steps.

    A tree of tensors, whose memory captured steps keep. What a family does not need stays None.
    """

    emb: Tensor | None = None  # [B, E], what is added to the embedding of the time
    timestep_cond: Tensor | None = None  # [B, ...], LCM's guidance embedding
    text: Any = None  # [B, T, D], what the layers attend to; any, of a prepared trunk
    masks: dict[str, Tensor] = {}  # noqa: RUF012 - biases of the attention, never changed
    cross_attention_kwargs: dict | None = None
    guidance: Tensor | None = None  # [1 or B, E], of the guidance scale, for a guided Dot


class Family(Protocol):
    """The inner layers of one Dash, as Dot runs them: eight functions and what there is to know.

    Dot halves the resolution m times, calls `run` on the features, and doubles it again. A model
    that works on tokens makes them of the features, one of each pixel, and features of the tokens.

    Attributes:
        MODELS: the models that it takes, in words.
        LORA_TARGETS: ends of the names of the trunk's layers that get a LoRA.
        time_layers: those of them that `embedding` and `told` run, but for what is given.
        trunk: the layers, a `shared_copy` of Dash without its outer ones and without adapters. Its
            names of the LoRA's parameters, behind "trunk.", are those of saved Dots.
        cut: how many of Dash's levels, or blocks, it leaves out.
        conditional: whether Dash is given more than x and t.
        channels: (C_in, C_out) of the features that `run` takes and returns.
        waves_dim: F, the number of sinusoids of a time.
        emb_dim: E, the width of what each layer is told of time and conditions.
        multiple: height and width of the features have to be multiples of it.
    """

    MODELS: str
    LORA_TARGETS: list[str]
    time_layers: list[nn.Module]
    trunk: nn.Module
    cut: int
    conditional: bool
    channels: tuple[int, int]
    waves_dim: int
    emb_dim: int
    multiple: int

    @staticmethod
    def takes(dash: nn.Module) -> bool:
        """Whether this is a model of the family.

        Raises:
            Refused: it is, but with something that no Dot works with.
        """
        ...

    def __init__(self, dash: nn.Module, num_halvings: int, cut: int | None):
        """Take the inner layers of a Dash that `takes` has taken.

        Args:
            num_halvings: m, how often Dot halves the resolution.
            cut: how much to leave out; None for what is good with that m.

        Raises:
            Refused: nothing would be left.
        """
        ...

    def waves(self, t: Tensor) -> Tensor:
        """Dash's sinusoids of times or of differences of times, float32 `[R, F]`; t `[R]`."""
        ...

    def given(self, cond: dict[str, Any], dtype: torch.dtype) -> Given:
        """What the trunk's weights make of the keywords that Dash is called with, of B rows.

        Raises:
            Refused: a keyword that a Dot does not take, or one that Dash needs is missing.
        """
        ...

    def embedding(self, waves: Tensor, trail: Tensor, of: Given) -> Tensor:
        """What each layer is told of time, trajectory and conditions, `[R or B, E]`.

        Args:
            waves: `[R, F]`, `waves` of the time; `[R, 1, F]` makes `[R, 1 or B, E]`, all images of
                R steps.
            trail: `[R, E]` or `[R, 1, E]`, Dot's embedding of the trajectory, to be added.
            of: what is given; `Given()` for what Dot's own blocks are told, which is time alone.
        """
        ...

    def prepare(self) -> None:
        """Make the trunk, a private copy without adapters, ready for inference alone."""
        ...

    def told(self, emb: Tensor) -> Tensor:
        """What the layers make of `embedding` before they see an image; the last size is any.

        A run computes it for all its steps beforehand.
        """
        ...

    def run(self, h: Tensor, told: Tensor, of: Given) -> Tensor:
        """The inner layers: `[B, C_in, H', W']` to `[B, C_out, H', W']`; told of 1 or B rows."""
        ...


def shared_copy(module: Model) -> Model:
    """A second module with the same structure whose frozen parameters are views of the first's."""
    views: dict[int, Tensor] = {id(b): b for b in module.buffers()}
    for p in module.parameters():
        views[id(p)] = nn.Parameter(p.detach(), requires_grad=False)
    return copy.deepcopy(module, views)


def has_adapters(model: object) -> bool:
    """Whether peft's adapters are on a model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    modules = model.modules() if isinstance(model, nn.Module) else ()
    return any(isinstance(module, BaseTunerLayer) for module in modules)


def without_adapters(module: nn.Module) -> None:
    """Put the base layers in the place of peft's adapters."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(module.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            parent = module.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], layer.get_base_layer())
