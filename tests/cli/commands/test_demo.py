"""`fedsim demo` as a person types it: which demo, where to, and how the live one ends."""

import io
import json
import re
import signal
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from fedsim.cli.commands import demo
from fedsim.cli.commands.demo import code_of
from fedsim.core.errors import MissingExtra
from tests.cli.typed import Say, Started, started

LIVE = ("demo", "--live", "--port", "0")
ADDRESS = "http://192.168.1.5:8765/"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "choose a demo"),
        (("--live", "--terminal"), "choose a demo"),
        (("--out", "missing/demo.html"), "no folder missing"),
        (("--live", "--port", "70000"), "70000"),
        (("--live", "--host", "evil.example"), "expected an address of this machine"),
        (("--terminal", "--host", "0.0.0.0"), "--host belongs to --live"),
        (("--live", "--full"), "--full belongs to --out"),
        (("--terminal", "--language", "xx"), "Known: en, de, fr"),
    ],
)
def test_a_mistake_is_one_clear_sentence(
    arguments: tuple[str, ...], message: str, tmp_path: Path, command: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    code, _, told = command("demo", *arguments)
    assert code == 2
    assert message in told
    assert "Traceback" not in told


def lines(process: Started, count: int) -> list[str]:
    """Wait until a command has printed so many lines."""
    deadline = time.monotonic() + 120
    while len(told := process.printed().splitlines()) < count:
        assert time.monotonic() < deadline, process.errors()
        time.sleep(0.02)
    return told


def address(process: Started, host: str = "127.0.0.1") -> str:
    """Wait until the demo says where it is."""
    found = re.search(rf"http://{re.escape(host)}:\d+/", lines(process, 1)[0])
    assert found is not None
    return found[0]


@pytest.mark.slow
def test_a_room_gets_a_warning_and_a_code_to_scan(tmp_path: Path) -> None:
    with started(*LIVE, "--host", "127.0.0.2", "--language", "fr", cwd=tmp_path) as process:
        place = address(process, "127.0.0.2")
        told = lines(process, 5)[1:5]
        assert told[0].startswith("Warning: everybody in this network")
        assert "unencrypted" in told[1]
        assert "█" in told[2] or told[2].startswith("No code to scan: segno")
        with urllib.request.urlopen(place, timeout=60) as answer:
            assert b'lang="fr"' in answer.read()
        process.signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_the_live_demo_says_where_it_is_and_ctrl_c_ends_it_in_peace_while_an_attack_runs(tmp_path: Path) -> None:
    with started(*LIVE, cwd=tmp_path) as process:
        with urllib.request.urlopen(address(process), timeout=60) as answer:
            assert b"Draw a digit" in answer.read()
        order = {"pixels": [255 * (pixel % 28 == 14) for pixel in range(784)], "label": 1}
        request = urllib.request.Request(f"{address(process)}attack", json.dumps(order).encode())
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert b"event: step\n" in iter(answer.readline, b"")
            process.signal(signal.SIGINT)
            assert process.wait(60) == 0
        assert process.errors() == ""
    assert list(tmp_path.iterdir()) == []


def progress(monkeypatch: pytest.MonkeyPatch, total: int, *steps: tuple[float, int], is_terminal: bool = False) -> str:
    """Return what is told of a recording at some times, each with the number of settings that are recorded."""
    out, now = io.StringIO(), [0.0]
    monkeypatch.setattr(demo, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with demo.show_progress(Console(file=out, width=100, force_terminal=is_terminal)) as told:
        for now[0], done in steps:
            told(done, total)
    return out.getvalue()


def test_a_recording_tells_how_much_time_is_left_where_there_is_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    assert progress(monkeypatch, 6, (0.0, 0), (4.0, 1), (12.0, 2), (13.0, 3), (30.0, 4)).splitlines() == [
        "  2 of 6 settings recorded, about 24 s left",
        "  4 of 6 settings recorded, about 15 s left",
    ]
    recorded_before = progress(monkeypatch, 44, (0.0, 40), (20.0, 42))
    assert recorded_before.splitlines() == ["  42 of 44 settings recorded, about 20 s left"]
    on_a_terminal = progress(monkeypatch, 3, (99.0, 3), is_terminal=True)
    assert "3/3" in on_a_terminal
    assert "recorded" not in on_a_terminal


def test_the_code_is_that_of_the_address() -> None:
    segno = pytest.importorskip("segno")
    lines = code_of(ADDRESS).splitlines()
    matrix = segno.make(ADDRESS, micro=False).matrix
    assert max(map(len, lines)) <= 80
    halves = {"█": (0, 0), "▀": (0, 1), "▄": (1, 0), " ": (1, 1)}  # a full block is light, as paper
    drawn = [[halves[mark][half] for mark in line] for line in lines for half in (0, 1)]
    inner = [row[2:-2] for row in drawn[2 : 2 + len(matrix)]]
    assert inner == [list(row) for row in matrix]
    assert code_of("http://192.168.1.6:8765/") != code_of(ADDRESS)


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segno", None)
    with pytest.raises(MissingExtra, match=r"pip install 'fedsim-privacy\[demo\]'"):
        code_of(ADDRESS)
