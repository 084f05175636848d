"""Spans of time, text that is shown and not executed, and signals that are asked for."""

import os
import signal
import subprocess
import sys

import pytest
import typer

from fedsim import __version__
from fedsim.cli import main as _commands  # noqa: F401 - adds every command
from fedsim.cli.commands._console import Commands, OneCommand, app, ask_to_stop, say, screen, seconds
from fedsim.core import registry
from fedsim.core.errors import FedsimError, did_you_mean
from tests.cli.typed import Say


@pytest.mark.parametrize(("text", "span"), [(None, None), ("90s", 90.0), ("1.5m", 90.0), ("2h", 7200.0)])
def test_spans_are_in_seconds(text: str | None, span: float | None) -> None:
    assert seconds(text) == span


@pytest.mark.parametrize("text", ["20", "m", "1d", "-1m", "1..5m", ""])
def test_what_is_no_span_is_told_with_an_example(text: str) -> None:
    with pytest.raises(FedsimError, match="expected a number with s, m or h, for example 20m"):
        seconds(text)


def test_a_title_with_terminal_commands_is_shown_and_not_executed() -> None:
    with screen.capture() as captured:
        say("red \x1b[31mtitle\x07")
    assert "\x1b[31m" not in captured.get()
    assert "\x07" not in captured.get()
    assert "title" in captured.get()


def test_a_reader_that_leaves_ends_no_command() -> None:
    """As `fedsim list attacks | head -0`: the command goes on in silence, and complains about nothing."""
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-m", "fedsim.cli", "list", "attacks"],
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_the_first_signal_asks_and_the_second_does_not_wait() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with ask_to_stop() as event:
        assert not event.is_set()
        signal.raise_signal(signal.SIGTERM)
        assert event.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_version_is_that_of_the_package(command: Say) -> None:
    assert command("--version") == (0, f"fedsim {__version__}\n", "")


def test_help_explains_every_argument_and_shows_marks_as_they_are(command: Say) -> None:
    code, told, _ = command("run", "--help")
    assert code == 0
    assert "[required]" in told
    assert "\\[" not in told
    assert "a scenario file" in told
    assert told.count("rguments:") == 1


def test_every_command_is_made_as_the_others_so_that_its_help_is_whole() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    groups = {name: own.commands for name, own in commands.items() if isinstance(own, Commands)}
    alone = [own for name, own in commands.items() if name not in groups]
    every = alone + [own for inner in groups.values() for own in inner.values()]
    assert "generate" in commands
    assert {type(own) for own in every} == {OneCommand}
    assert all((own.epilog or "").startswith("Example: fedsim ") for own in every)


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
    near = sorted(name for name in registry.methods("attack") if name.startswith("closed-form-"))
    assert f"Did you mean {' or '.join(map(repr, near))}?" in told


def test_the_nearest_word_is_found_in_any_case_and_long_lists_are_left_out() -> None:
    assert did_you_mean("ADAM", ["adam", "sgd"]) == " Did you mean 'adam'?"
    assert did_you_mean("qqq", ["adam", "sgd"]) == " Known: adam, sgd."
    assert did_you_mean("qqq", map(str, range(100))) == ""
