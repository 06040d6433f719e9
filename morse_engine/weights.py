"""Where the weights of captured models lie: a captured step reads addresses, not names."""

from collections.abc import Sequence
from operator import is_

from torch import Tensor, nn


class Weights:
    """The parameters, buffers and layers of some models at one moment.

    Values that change in place (an optimizer's step, a LoRA that is loaded into existing weights or
    weighted anew) are read by captured steps as they are. A tensor that moves or is replaced, a
    layer that is exchanged or added, and a switch between train() and eval() are not: `changed`
    finds them, in about 0.15 microseconds for each tensor and layer. Models that are no `nn.Module`
    cannot be looked into.
    """

    def __init__(self, models: Sequence):
        self._modules: list[nn.Module] = []
        self._holders: list[dict] = []
        self._slots: list[tuple[dict, str]] = []  # of tensors
        self._paths: list[str] = []
        self._children: list[tuple[dict, str]] = []
        for model in models:
            if not isinstance(model, nn.Module):
                continue
            for path, module in model.named_modules():
                self._modules.append(module)
                self._holders += (module._modules, module._parameters, module._buffers)
                self._children += [(module._modules, name) for name in module._modules]
                for tensors in (module._parameters, module._buffers):
                    names = [name for name, tensor in tensors.items() if tensor is not None]
                    self._slots += [(tensors, name) for name in names]
                    self._paths += [f"{path}.{name}".lstrip(".") for name in names]
        self._tensors = _read(self._slots)
        self._addresses = list(map(Tensor.data_ptr, self._tensors))
        self._layers = _read(self._children)
        self._counts = list(map(len, self._holders))
        self._training = self._modes()

    def changed(self) -> str | None:
        """What differs from that moment, in words; None if nothing does."""
        tensors = _read(self._slots)
        if not all(map(is_, tensors, self._tensors)):
            pairs = zip(self._paths, tensors, self._tensors, strict=True)
            return f"{next(path for path, now, then in pairs if now is not then)} was replaced"
        addresses = list(map(Tensor.data_ptr, tensors))
        if addresses != self._addresses:
            pairs = zip(self._paths, addresses, self._addresses, strict=True)
            return f"{next(path for path, now, then in pairs if now != then)} was moved"
        same = map(is_, _read(self._children), self._layers)
        if list(map(len, self._holders)) != self._counts or not all(same):
            return "layers were exchanged or added"
        if self._modes() != self._training:
            return "a model was switched between train() and eval()"
        return None

    def _modes(self) -> list[bool]:
        return [module.training for module in self._modules]


def _read(slots: list[tuple[dict, str]]) -> list:
    return [holder.get(name) for holder, name in slots]
