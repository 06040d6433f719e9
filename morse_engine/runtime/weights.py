"""What a captured step has taken from its models: addresses of tensors, and what Python decided."""

from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any

import torch.nn.modules.module as torch_module
from torch import Tensor, nn

# What every module has; of it a forward reads these, and `training`.
_READ = ("_modules", "_parameters", "_buffers", "_forward_hooks", "_forward_pre_hooks")
_TORCHS = vars(nn.Module()).keys() - {"training"}
_EVERYWHERE = (torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks)


class Weights:
    """The parameters, buffers, layers, hooks and settings of some models at one moment.

    Values of weights that change in place (an optimizer's step, a LoRA that is loaded into existing
    weights) are read by captured steps as they are. All else is fixed in them: where a tensor lies,
    which layers and hooks there are, and each number, switch or function that a module has as an
    attribute (the scale of a LoRA, whether it is disabled, an attention processor and its numbers).
    `changed` compares all of that, in about 0.15 microseconds for each tensor and layer. Attributes
    of other objects are not looked at, and models that are no `nn.Module` cannot be looked into.

    Args:
        models: those that others have too.
        private: those that nobody else has; of them only where the tensors lie is looked at.
    """

    def __init__(self, models: Sequence, private: Sequence = ()):
        found = [module for model in models for module in _modules(model)]
        tensors = [held for path, module in found for held in _tensors(path, module)]
        self._held = len(tensors)  # by containers that are compared
        for model in private:
            tensors += [held for path, module in _modules(model) for held in _tensors(path, module)]
        self._names, self._tensors = [name for name, _ in tensors], [t for _, t in tensors]
        self._addresses = list(map(Tensor.data_ptr, self._tensors))

        holders = [("hooks", holder) for holder in _EVERYWHERE]
        holders += [held for path, module in found for held in _holders(path, module)]
        # Most hold nothing, which is the fastest to see.
        self._empty = [holder for _, holder in holders if not holder]
        self._filled = [holder for _, holder in holders if holder]
        self._copies = [holder.copy() for holder in self._filled]  # as they were
        self._paths = [path for path, holder in holders if not holder]
        self._paths += [path for path, holder in holders if holder]

        self._modules, self._attributes = [path for path, _ in found], [vars(m) for _, m in found]
        self._then = [attributes.copy() for attributes in self._attributes]
        self._lengths = list(map(len, self._attributes))
        alike: dict[tuple[str, ...], list[dict]] = {}  # those of the same names are read at once
        for held in self._attributes:
            alike.setdefault(tuple(name for name in held if name not in _TORCHS), []).append(held)
        self._getters = [(itemgetter(*names), held) for names, held in alike.items()]
        self._values = self._settings()

    def _settings(self) -> list:
        return [list(map(get, held)) for get, held in self._getters]

    def changed(self) -> str | None:
        """What differs from that moment, in words; None if nothing does."""
        # Comparing containers, Python takes one object for equal to itself without asking it.
        if any(self._empty) or not _same(self._filled, self._copies):
            return self._contents()
        addresses = list(map(Tensor.data_ptr, self._tensors))
        if addresses != self._addresses:
            pairs = zip(self._names, addresses, self._addresses, strict=True)
            return f"{next(name for name, now, then in pairs if now != then)} was moved"
        try:
            same = list(map(len, self._attributes)) == self._lengths
            same = same and _same(self._settings(), self._values)
        except KeyError:  # one is gone, and another there
            same = False
        return None if same else self._attribute()

    def _contents(self) -> str:
        """The first container that differs, in words; tensors before all others."""
        holders = self._empty + self._filled
        now = {id(v) for holder in holders if isinstance(holder, dict) for v in holder.values()}
        held = self._names[: self._held], self._tensors[: self._held]
        for name, tensor in zip(*held, strict=True):
            if id(tensor) not in now:
                return f"{name} was replaced"
        copies = [type(holder)() for holder in self._empty] + self._copies
        for path, holder, copy in zip(self._paths, holders, copies, strict=True):
            if not _same(holder, copy):
                return _said(path, copy, holder)
        return "a layer was exchanged"

    def _attribute(self) -> str:
        """The first attribute that differs, in words."""
        for path, held, then in zip(self._modules, self._attributes, self._then, strict=True):
            for name in sorted((held.keys() | then.keys()) - _TORCHS):
                now, was = held.get(name, _NOTHING), then.get(name, _NOTHING)
                if not _same([now], [was]):
                    return _said(f"{path}.{name}".lstrip("."), was, now)
        return "a setting was changed"


class _Nothing:
    """In the place of an attribute that is not there."""

    def __repr__(self) -> str:
        return "not there"


_NOTHING = _Nothing()


def _modules(model: object) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(model, nn.Module):
        yield from model.named_modules()


def _tensors(path: str, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers of a module itself, by name."""
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None:
            yield f"{path}.{name}".lstrip("."), tensor


def _holders(path: str, module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Containers of a module whose items are compared, by name."""
    attributes = vars(module)
    for name in _READ:
        yield f"{path}.{name}".lstrip("."), attributes[name]
    for name, value in attributes.items():
        if name not in _TORCHS and type(value) in (dict, list, set):
            yield f"{path}.{name}".lstrip("."), value
    processor = attributes.get("processor")  # of diffusers' attention
    if processor is not None and hasattr(processor, "__dict__"):
        yield f"{path}.processor".lstrip("."), vars(processor)


def _same(now: Any, then: Any) -> bool:
    try:
        return bool(now == then)
    except (RuntimeError, TypeError, ValueError):  # two arrays were asked, and have many answers
        return False


def _said(path: str, was: Any, now: Any) -> str:
    """What became of one container or attribute."""
    module, _, name = path.rpartition(".")
    if name in ("_modules", "_parameters", "_buffers"):
        return "layers were exchanged or added"
    if name.endswith("hooks"):
        return f"a forward hook of {module or 'the model'} was added or removed"
    if name == "training":
        return "a model was switched between train() and eval()"
    was, now = _short(was), _short(now)
    return f"{path} was replaced" if was == now else f"{path} was {was}, is {now}"


def _short(value: Any) -> str:
    """A plain value as it is written, of anything else its class."""
    plain = (bool, int, float, str, type(None), tuple, list, dict, set, _Nothing)
    return repr(value)[:60] if isinstance(value, plain) else f"a {type(value).__name__}"
