"""Trackers of accelerate (tensorboard, wandb ...), asked for by name."""

from ..system.checks import shown
from ..system.errors import Refused, Unavailable


def check(name: str | None) -> None:
    """Whether accelerate can report to this tracker; None is none.

    Raises:
        Refused: accelerate knows none of that name.
        Unavailable: its package is missing.
    """
    if name is None:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known = sorted(LOGGER_TYPE_TO_CLASS)
    if not isinstance(name, str) or name not in known:
        raise Refused(f"report_to={shown(name)}: accelerate has the trackers {', '.join(known)}")
    if name not in [str(found) for found in get_available_trackers()]:
        package = {"comet_ml": "comet-ml"}.get(name, name)
        raise Unavailable(f"report_to={name!r}: its package is missing, pip install {package}")
