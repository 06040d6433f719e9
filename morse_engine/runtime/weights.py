"""Where the weights of captured models lie: a captured step reads addresses, not names."""

from collections.abc import Sequence
from operator import attrgetter

from torch import Tensor, nn

_training = attrgetter("training")


class Weights:
    """The parameters, buffers and layers of some models at one moment.

    Values that change in place (an optimizer's step, a LoRA that is loaded into existing weights or
    weighted anew) are read by captured steps as they are. A tensor that moves or is replaced, a
    layer that is exchanged or added, and a switch between train() and eval() are not: `changed`
    finds them, in about 0.1 microseconds for each tensor and layer. Models that are no `nn.Module`
    cannot be looked into.
    """

    def __init__(self, models: Sequence):
        self._modules: list[nn.Module] = []
        self._holders: list[dict] = []  # of layers, parameters, buffers by name, as they are
        self._tensors: list[Tensor] = []
        self._paths: list[str] = []
        for model in models:
            if not isinstance(model, nn.Module):
                continue
            for path, module in model.named_modules():
                self._modules.append(module)
                self._holders += (module._modules, module._parameters, module._buffers)
                for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                    if tensor is not None:
                        self._tensors.append(tensor)
                        self._paths.append(f"{path}.{name}".lstrip("."))
        self._copies = [holder.copy() for holder in self._holders]  # as they were
        self._addresses = list(map(Tensor.data_ptr, self._tensors))
        self._modes = list(map(_training, self._modules))

    def changed(self) -> str | None:
        """What differs from that moment, in words; None if nothing does."""
        try:
            # Comparing containers, Python takes one object for equal to itself without asking it.
            same = self._holders == self._copies
        except RuntimeError:  # two tensors were asked, and have more than one answer
            same = False
        if not same:
            return self._replaced()
        addresses = list(map(Tensor.data_ptr, self._tensors))
        if addresses != self._addresses:
            pairs = zip(self._paths, addresses, self._addresses, strict=True)
            return f"{next(path for path, now, then in pairs if now != then)} was moved"
        if list(map(_training, self._modules)) != self._modes:
            return "a model was switched between train() and eval()"
        return None

    def _replaced(self) -> str:
        now = {id(value) for holder in self._holders for value in holder.values()}
        for path, tensor in zip(self._paths, self._tensors, strict=True):
            if id(tensor) not in now:
                return f"{path} was replaced"
        return "layers were exchanged or added"
