"""Errors say what to do, whose they are, and the nearest word."""

import pytest

from fedsim.core.errors import (
    FedsimError,
    GenerationError,
    MissingExtra,
    ScenarioError,
    describe_exception,
    did_you_mean,
    first_line,
    reason,
)


def raised(error: Exception) -> Exception:
    try:
        raise error
    except type(error) as caught:
        return caught


def test_errors_of_ours_are_told_by_their_words_and_others_with_their_place() -> None:
    assert reason(raised(ScenarioError("set x."))) == "set x."
    told = reason(raised(ValueError("five")))
    assert told.startswith("ValueError: five (test_errors.py, line ")
    assert told.endswith("in raised)")
    assert describe_exception(raised(FedsimError("own"))).startswith("FedsimError: own (test_errors.py")


def test_a_message_of_several_lines_is_told_in_one() -> None:
    assert first_line(ValueError("\nfirst\nsecond")) == "first"
    assert first_line(KeyError()) == "KeyError"


@pytest.mark.parametrize(
    ("word", "known", "told"),
    [
        ("mpl", ["mlp", "lenet"], " Did you mean 'mlp'?"),
        ("xyz", ["mlp", "lenet"], " Known: lenet, mlp."),
        ("xyz", [], ""),
    ],
)
def test_the_nearest_word_is_named_or_else_all(word: str, known: list[str], told: str) -> None:
    assert did_you_mean(word, known) == told


def test_rows_that_end_and_lines_that_install_are_kept() -> None:
    assert GenerationError("no way on", iter([2, 0])).rows == (2, 0)
    assert (
        str(MissingExtra("gensim", "pip install gensim"))
        == "gensim is not installed. Get it with:\n  pip install gensim"
    )
    assert {kind.exit_code for kind in (FedsimError, ScenarioError, MissingExtra)} == {2}
