"""User errors with instructions. The command line prints them without a traceback and exits with code 2."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path

_ALIKE = 0.65  # difflib ratio: two typos in a short word are above it, another word is below
_MOST_NAMED = 30  # maximum length of a readable list of words


class FedsimError(Exception):
    """A user error. The message gives the location, the expected value and the fix."""

    exit_code = 2


class ScenarioError(FedsimError):
    """An invalid scenario file."""


class NotApplicable(FedsimError):
    """A method does not fit its input; the message is the reason."""


class Diverged(FedsimError):
    """A training whose updates are no longer finite; the message says which learning rate to try."""


class ClientRefusal(FedsimError):
    """A client refuses to train on the weights that it received; the message is the reason."""


class GenerationError(FedsimError):
    """A generation ends early; the message is the reason, for the user.

    Attributes:
        rows: indices of the failed rows in the state; the other rows continue unaffected.
    """

    def __init__(self, reason: str, rows: Iterable[int]) -> None:
        super().__init__(reason)
        self.rows = tuple(rows)


class MissingExtra(FedsimError):
    """An optional package or data set that is not installed."""

    def __init__(self, feature: str, install: str) -> None:
        super().__init__(f"{feature} is not installed. Get it with:\n  {install}")


def describe_exception(error: Exception) -> str:
    """Return type, message and location of an exception raised by third-party code."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(last.filename).name}, line {last.lineno}, in {last.name})"


def reason(error: Exception) -> str:
    """Return why a method failed: the message of a fedsim error, or description of a third-party exception."""
    return str(error) if isinstance(error, FedsimError) else describe_exception(error)


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message, or its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'X'?`` for the closest known word (case-insensitive), else the list of all words.

    Returns an empty string if the list is too long.
    """
    options = sorted(known)
    folded = {option.casefold(): option for option in options}
    close = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=_ALIKE)
    if close:
        return f" Did you mean '{folded[close[0]]}'?"
    return f" Known: {', '.join(options)}." if 0 < len(options) <= _MOST_NAMED else ""
