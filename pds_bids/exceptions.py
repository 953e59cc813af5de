"""Errors of the package; each is also the builtin that a caller would expect.

A message says what is wrong, where, what was got and expected, and what to do.
"""

__all__ = [
    "DataError",
    "DeviceError",
    "GeometryError",
    "InvalidBIDSError",
    "LeakageError",
    "NothingSelectedError",
    "PDSError",
    "QualityError",
    "TemplateError",
    "UsageError",
    "WeightsError",
]


class PDSError(Exception):
    """Base of all errors that the package raises on purpose.

    ``exit_code`` is what the command line returns when the error ends a run.
    """

    exit_code = 1


class UsageError(PDSError, ValueError):
    """Options or arguments that contradict each other."""

    exit_code = 2


class InvalidBIDSError(PDSError, ValueError):
    """The input folder is not a BIDS dataset."""

    exit_code = 16


class NothingSelectedError(PDSError, LookupError):
    """No participant, session or series is left after the filters."""

    exit_code = 18


class DeviceError(PDSError, RuntimeError):
    """A device was asked for that is not there, or its memory did not suffice."""

    exit_code = 75


class DataError(PDSError, ValueError):
    """An image or table that cannot be used: unreadable, empty, not finite, of the wrong shape."""


class GeometryError(PDSError, ValueError):
    """Grids, affines or gradient tables that do not fit together."""


class LeakageError(PDSError, ValueError):
    """Training would see who is tested."""


class QualityError(PDSError, RuntimeError):
    """A step ran but its result fails the quality gate."""


class TemplateError(PDSError, FileNotFoundError):
    """A template or atlas cannot be had."""


class WeightsError(PDSError, ValueError):
    """Model weights that are missing, unsafe, corrupt or of another model."""
