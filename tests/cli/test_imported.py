"""What `fedsim show` prints of a method is the same whether it was imported or not."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedsim.cli import pages
from fedsim.cli.commands._console import screen
from fedsim.cli.commands.show import print_page
from fedsim.cli.imported import _accepted_values, read
from fedsim.core import registry
from fedsim.core.registry import index
from fedsim.core.registry.method import KINDS

ENTRIES = [entry for kind in KINDS for entry in index.entries_of(kind).values()]


def printed(show: Callable[[], None]) -> str:
    with screen.capture() as shown:
        show()
    return shown.get()


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "integer", "minimum": 1}, "integer >= 1"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 2}, "number > 0 <= 2"),
        ({"anyOf": [{"type": "integer", "minimum": 2}, {"type": "null"}]}, "integer >= 2"),
        ({"anyOf": [{"type": "number"}, {"const": "calibrate", "type": "string"}]}, "number or 'calibrate'"),
        ({"$ref": "#/$defs/DistanceChoice"}, "table"),
        ({"enum": ["a", "b"], "type": "string"}, "one of ['a', 'b']"),
    ],
)
def test_the_accepted_values_of_a_setting_are_never_an_empty_cell(schema: dict[str, object], expected: str) -> None:
    assert _accepted_values(schema) == expected


def test_every_page_out_of_the_index_is_that_of_the_imported_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path))
    pages.page_of(ENTRIES[0])
    stored = json.loads((tmp_path / "pages.json").read_text())["pages"]
    assert len(ENTRIES) == len(stored)
    for entry in ENTRIES:
        method, page = registry.get(entry.kind, entry.name), pages.Page(**stored[f"{entry.kind} {entry.name}"])
        slow = printed(lambda method=method: print_page(method, pages.Page(*read(method))))
        assert printed(lambda entry=entry, page=page: print_page(entry, page)) == slow
