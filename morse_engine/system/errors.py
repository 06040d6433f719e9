"""The two errors that this package raises on purpose: each names the value and the fix."""


class Refused(ValueError):
    """An argument, a file or a combination of them that the package does not work with."""


class Unavailable(RuntimeError):
    """Something that is asked for rightly and is not there: a GPU, a library, a state, a device."""
