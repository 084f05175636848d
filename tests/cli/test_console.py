"""What the command line says of its own names: help, version, and words that it does not know."""

import pytest

from fedsim import __version__
from fedsim.core.errors import nearest
from tests.cli.conftest import Say


def test_the_version_is_that_of_the_package(command: Say) -> None:
    assert command("--version") == (0, f"fedsim {__version__}\n", "")


def test_help_explains_every_argument_and_shows_marks_as_they_are(command: Say) -> None:
    code, told, _ = command("run", "--help")
    assert code == 0
    assert "[required]" in told
    assert "\\[" not in told
    assert "a scenario file" in told
    assert told.count("rguments:") == 1


def test_a_command_that_is_none_is_answered_once(command: Say) -> None:
    code, _, told = command("rum")
    assert code == 2
    assert told.count("Did you mean") == 1
    assert "there is no command 'rum'. Did you mean 'run'?" in told


@pytest.mark.parametrize(
    ("name", "found"), [("DIA", "dropout-inversion"), ("IG", "inverting-gradients"), ("label shares", "label-shares")]
)
def test_a_method_is_found_by_its_name_in_tables(command: Say, name: str, found: str) -> None:
    code, told, _ = command("show", name)
    assert code == 0
    assert told.startswith(f"{found} (attack)")


def test_a_name_that_is_none_is_answered_in_a_line(command: Say) -> None:
    assert command("show", "xyzzy") == (2, "", "there is no method 'xyzzy'. `fedsim list` names all.\n")
    told = command("show", "closed form")[2]
    assert "Did you mean 'closed-form-linear' or 'closed-form-vit'?" in told


def test_the_nearest_word_is_found_in_any_case_and_long_lists_are_left_out() -> None:
    assert nearest("ADAM", ["adam", "sgd"]) == " Did you mean 'adam'?"
    assert nearest("qqq", ["adam", "sgd"]) == " Known: adam, sgd."
    assert nearest("qqq", map(str, range(100))) == ""
