"""Errors that answer the user: the command line shows their message alone, and a traceback of everything else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """What the user gave cannot be used; the message says what, and what was expected."""


class MissingInput(InputError, FileNotFoundError):
    """A file that the user named, or that a run should hold, is not there."""


class MissingExtra(InputError, ImportError):
    """An optional package is not installed."""


class OtherRun(InputError):
    """The folder holds a run of another kind or configuration."""


class RunStopped(RuntimeError):
    """A run ended early for a reason outside the program; what was finished is kept."""


@contextmanager
def user_input() -> Iterator[None]:
    """Where options are read and what they name is loaded: an error in here answers the user.

    Raises InputError (MissingInput, MissingExtra) with the message of any ValueError, TypeError, IndexError, OSError
    or ImportError.
    """
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise MissingInput(str(error)) from error
    except ImportError as error:
        raise MissingExtra(str(error)) from error
    except (ValueError, TypeError, IndexError, OSError) as error:
        raise InputError(str(error)) from error
