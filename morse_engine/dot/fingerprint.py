"""A name for the weights of a model, by which a Dot knows its Dash."""

import hashlib
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_LOOKED_AT = 64  # values of each tensor

_known: "WeakKeyDictionary[nn.Module, tuple[list, str]]" = WeakKeyDictionary()


def fingerprint(model: nn.Module) -> str:
    """A name for the weights of a model: SHA-256 over names, shapes and values in float16.

    Half precision makes the name the same for a model loaded in float32 and in float16. A LoRA on
    top, as peft adds it, does not change the name; one that was merged into the weights does.

    Gigabytes take seconds, so the name is kept while the weights are the same: by storage, torch's
    count of changes, and 64 values of each tensor, since what is written through `.data` (as peft
    merges a LoRA) is not counted.
    """
    weights = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in model.state_dict().items()
        if "lora_" not in name
    }
    if any(tensor.is_inference() for tensor in weights.values()):  # their changes are not counted
        return _digest(weights)
    state = _state(weights)
    known = _known.get(model)
    if known is None or known[0] != state:
        known = _known[model] = state, _digest(weights)
    return known[1]


def _digest(weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().half().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _state(weights: dict[str, Tensor]) -> list:
    """What differs once a weight is another."""
    looked_at: dict[torch.device, list[Tensor]] = {}
    state: list = []
    for name, tensor in weights.items():
        state.append((name, tensor.shape, tensor.dtype, tensor.data_ptr(), tensor._version))
        # In the order of memory, so that channels-last weights are not copied.
        order = sorted(range(tensor.ndim), key=tensor.stride().__getitem__, reverse=True)
        values = tensor.detach().permute(order).flatten()
        step = max(1, len(values) // _LOOKED_AT)
        looked_at.setdefault(tensor.device, []).append(values[::step].float())
    # One copy from each device.
    state += [torch.cat(values).cpu().numpy().tobytes() for values in looked_at.values()]
    return state
