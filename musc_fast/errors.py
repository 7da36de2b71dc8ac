"""The errors that musc_fast raises on purpose.

Each message names the offending argument, file or image and says what to do. The command prints
them without a traceback; anything else that escapes is a bug in musc_fast.
"""

from __future__ import annotations


class MuscFastError(Exception):
    """Base of every error that musc_fast raises on purpose."""


class MuscFastWarning(UserWarning):
    """Something about the input was decided for the user, who should know; said once a batch."""


class InputError(MuscFastError, ValueError):
    """An argument has a wrong shape, dtype or value."""


class ImageError(MuscFastError):
    """An image, mask or dataset folder is missing, unreadable or inconsistent."""


class BackendError(MuscFastError, RuntimeError):
    """A backend asked for by name cannot run here, or lacks the operator."""


class WeightsError(MuscFastError):
    """Backbone weights could not be found, fetched or verified."""


class BankError(MuscFastError):
    """A reference bank's file is missing, damaged, or made with other settings."""


class StorageError(MuscFastError, OSError):
    """A disk has no room for a file; the message names the folder."""


class DistributedError(MuscFastError, RuntimeError):
    """A rank of a run over several processes died, fell behind, or differs from the others."""
