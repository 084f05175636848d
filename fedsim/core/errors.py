"""Errors that tell the user what to do. The command line prints them without a traceback and exits with code 2."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path

_ALIKE = 0.65  # of difflib; two slips in a short word stay above it, another word lies below
_MOST_NAMED = 30  # words of a list that somebody reads


class FedsimError(Exception):
    """A mistake the user can correct: the message names the place, what was expected and the next step."""

    exit_code = 2


class ScenarioError(FedsimError):
    """A scenario file that cannot be run as written."""


class NotApplicable(FedsimError):
    """A method that does not fit what it was given; the message is the reason."""


class Diverged(FedsimError):
    """A training whose updates are no longer finite; the message says which learning rate to try."""


class Refused(FedsimError):
    """A client that does not train on the weights that it received; the message is the reason."""


class CannotContinue(FedsimError):
    """A generation that ends before its time; the message is the reason, for who asked for it.

    Attributes:
        rows: places in the state of the rows that end; the others go on as if they had never stood beside them.
    """

    def __init__(self, reason: str, rows: Iterable[int]) -> None:
        super().__init__(reason)
        self.rows = tuple(rows)


class MissingExtra(FedsimError):
    """An optional package or data set that is not installed."""

    def __init__(self, what: str, install: str) -> None:
        super().__init__(f"{what} is not installed. Get it with:\n  {install}")


def describe_exception(error: Exception) -> str:
    """Return kind, message and place of an exception that somebody else's code raised."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(last.filename).name}, line {last.lineno}, in {last.name})"


def reason(error: Exception) -> str:
    """Return why a method failed: the words of an error of ours, or what somebody else's code raised and where."""
    return str(error) if isinstance(error, FedsimError) else describe_exception(error)


def in_a_line(error: Exception) -> str:
    """Return the first line of an exception's message, or its kind when it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'X'?`` for the closest known word, whatever its case, or all of them when none is close.

    Of too many to read it returns nothing.
    """
    options = sorted(known)
    folded = {option.casefold(): option for option in options}
    close = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=_ALIKE)
    if close:
        return f" Did you mean '{folded[close[0]]}'?"
    return f" Known: {', '.join(options)}." if 0 < len(options) <= _MOST_NAMED else ""
