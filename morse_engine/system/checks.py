"""Arguments of public functions: each check returns the value, or is `Refused` naming it."""

import inspect
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from operator import index
from pathlib import Path
from typing import Any

from .errors import Refused

LONGEST = 60  # characters, or members, of a value that a message repeats


def shown(value: Any) -> str:
    """A value as a message repeats it: its `repr`, cut if it is long."""
    if _is_tensor(value) and value.numel() != 1:
        return f"a tensor {list(value.shape)} {value.dtype}"
    if isinstance(value, (str, bytes, list, tuple)) and len(value) > LONGEST:
        # Cut before it is written out.
        return f"{repr(value[:LONGEST])[:LONGEST]}... ({len(value)} in all)"
    text = repr(value)
    return text if len(text) <= 2 * LONGEST else f"{text[:LONGEST]}..."


def kind(value: object) -> str:
    """What a value is, where it is of no use to repeat it."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return "None" if value is None else f"a {type(value).__name__}"


def _is_tensor(value: object) -> bool:
    torch = sys.modules.get("torch")  # not imported here: help of the command line does without
    return torch is not None and isinstance(value, torch.Tensor)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or "bool" in str(getattr(value, "dtype", ""))


def integer(name: str, value: Any, at_least: int, at_most: int | None = None) -> int:
    """Whatever counts as an integer (numpy's and torch's too, no bool) as an int in a range."""
    try:
        one = not getattr(value, "shape", ()) and not _is_bool(value)
        number = index(value) if one else None
    except TypeError:
        number = None
    if number is None:
        raise Refused(f"{name}={shown(value)}: has to be an integer")
    if number < at_least or (at_most is not None and number > at_most):
        limits = f"at least {at_least}" if at_most is None else f"from {at_least} to {at_most}"
        raise Refused(f"{name}={shown(number)}: has to be {limits}")
    return number


def number(name: str, value: Any, wanted: str = "a finite number") -> float:
    """Whatever counts as a number (numpy's and torch's too, no bool, no text) as a finite float.

    Args:
        wanted: what it has to be, in words.
    """
    scalar = _is_tensor(value) and value.ndim == 0
    found = math.nan
    if (scalar or isinstance(value, Real)) and not _is_bool(value):
        try:
            found = float(value)
        except (OverflowError, RuntimeError):  # an int beyond floats; a complex tensor
            found = math.nan
    if not math.isfinite(found):
        raise Refused(f"{name}={shown(value)}: has to be {wanted}")
    return found


def positive(name: str, value: Any) -> float:
    """A positive finite number."""
    found = number(name, value, "a positive finite number")
    if found <= 0:
        raise Refused(f"{name}={shown(value)}: has to be a positive finite number")
    return found


def flag(name: str, value: Any) -> bool:
    """True or False and nothing that is only taken for one."""
    if not isinstance(value, bool):
        raise Refused(f"{name}={shown(value)}: has to be True or False")
    return value


def tensor(name: str, value: Any, form: str) -> Any:
    """A floating-point tensor with as many dimensions as `form` names: "[B, C, H, W]".

    "[B, C, ...]" has at least three.
    """
    if not _is_tensor(value):
        raise Refused(f"{name} is {kind(value)}: pass a tensor {form}")
    named = form.count(",") + 1
    fits = value.ndim >= named if form.endswith("...]") else value.ndim == named
    if not fits or not value.is_floating_point():
        raise Refused(f"{name} is {tuple(value.shape)} {value.dtype}: pass floats {form}")
    if value.is_meta or value.is_sparse or value.element_size() < 2:
        raise Refused(
            f"{name} is {value.dtype}, {value.layout}, on {value.device}: pass a dense tensor of "
            "at least 16 bits a number"
        )
    return value


def is_list(value: Any) -> bool:
    """Whether a value is a row of values, in an order, with an end: no set, no text, no iterator.

    Arrays and tensors of one dimension are rows.
    """
    if isinstance(value, (str, bytes, bytearray, Mapping)):
        return False
    sized = hasattr(type(value), "__len__") and hasattr(type(value), "__getitem__")
    return sized and getattr(value, "ndim", 1) == 1


def sizes(name: str, value: Any, form: str, at_most: int | None = None) -> tuple[int, ...]:
    """Positive integers, as many as `form` names: "(C, H, W)"."""
    if not is_list(value) or len(value) != form.count(",") + 1:
        raise Refused(f"{name}={shown(value)}: has to be {form}")
    return tuple(integer(f"a size in {name}", size, 1, at_most) for size in value)


def function(
    name: str, value: Any, what: str, positional: int | None = None, keywords: Iterable[str] = ()
) -> Callable:
    """Something that can be called and is no class.

    Args:
        positional: how many positional arguments it is called with; None: not looked at.
        keywords: the names of the others.
    """
    if not callable(value) or isinstance(value, type):
        raise Refused(f"{name} is {kind(value)}: pass {what}")
    if positional is not None:
        try:
            # A module says what it takes in forward().
            signature = inspect.signature(getattr(value, "forward", value))
            signature.bind(*[None] * positional, **dict.fromkeys(keywords))
        except ValueError:  # it does not say what it takes
            pass
        except TypeError as error:
            raise Refused(f"{name} cannot be called: {error}; pass {what}") from None
    return value


def configured(name: str, value: Any, what: str) -> Any:
    """An object with a config, such as diffusers' schedulers, and not their class."""
    if isinstance(value, type) or not hasattr(value, "config"):
        raise Refused(f"{name} is {kind(value)}: pass {what}")
    return value


def path(name: str, value: Any) -> Path:
    """A path, of a string or a `Path`."""
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    fits = isinstance(text, str) and all(len(os.fsencode(p)) < 256 for p in text.split(os.sep))
    if not text or not fits or "\0" in text:
        raise Refused(f"{name}={shown(value)}: has to be a path")
    return Path(text)
