"""The code to scan holds the address; without the package the error says how to get it."""

import sys

import pytest

from fedsim.core.errors import MissingExtra
from fedsim.demo.scan import code_of

ADDRESS = "http://192.168.1.5:8765/"


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
