"""Errors that a user meets, each with the exit status it leads to."""

from __future__ import annotations

DONE, FAILED, USAGE, TOO_MANY_FAILED, INCOMPLETE = 0, 1, 2, 3, 4


class EditError(Exception):
    """Something the user can act on: one line that says what is wrong, and a hint if there is a next step."""

    status = FAILED

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(EditError):
    """The command line cannot be carried out as it stands."""

    status = USAGE


class IncompleteError(EditError):
    """The input ended before its end record: a writer died, or a shard is missing."""

    status = INCOMPLETE


class DamagedError(EditError):
    """A file's bytes are not what they are said to be."""


class TooManyFailed(EditError):
    """The work is done, but more rows failed than `--max-errors` tolerates."""

    status = TOO_MANY_FAILED


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived. Not an Exception, so that no handler for bad rows can swallow it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class RowError(Exception):
    """One row cannot be used; it is rejected with this reason and the run goes on.

    It counts against --max-errors, unless nothing `failed`: the row was read, and is none of those that are wanted.
    """

    def __init__(self, reason: str, value: object = None, *, failed: bool = True) -> None:
        super().__init__(reason if value is None else f"{reason}: {value}")
        self.reason = reason
        self.value = value
        self.failed = failed


def describe(error: BaseException) -> str:
    """What a library complained about, short enough for one line (some put the whole input into it)."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:200]}" if text else type(error).__name__


def missing_extra(package: str, extra: str, use: str) -> EditError:
    """The error for an optional package that is not installed."""
    return EditError(
        f"{use} needs the package `{package}`, which is not installed",
        hint=f"pip install 'edittools[{extra}]'",
    )
