"""Parts of a recording are kept by all that they depend on, and nothing else is taken for them."""

from pathlib import Path

import pytest
from pydantic import TypeAdapter

from fedsim.demo.parts import KeptParts


def squared(number: int) -> int | None:
    return number**2


def doubled(number: int) -> int | None:
    return 2 * number


@pytest.fixture
def kept(tmp_path: Path) -> KeptParts[int | None]:
    return KeptParts(tmp_path / ".parts", TypeAdapter(int | None))


def test_a_part_comes_back_and_so_does_one_that_is_nothing(kept: KeptParts[int | None]) -> None:
    kept.write((squared, (3,)), 9)
    kept.write((squared, (4,)), None)
    assert kept.read((squared, (3,))) == (9,)
    assert kept.read((squared, (4,))) == (None,)
    assert kept.read((squared, (5,))) is None


def test_a_part_belongs_to_its_function_and_to_this_version(
    kept: KeptParts[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.write((squared, (3,)), 9)
    assert kept.read((doubled, (3,))) is None
    monkeypatch.setattr("fedsim.__version__", "another")
    assert kept.read((squared, (3,))) is None


def test_a_part_that_is_no_result_is_as_none(kept: KeptParts[int | None]) -> None:
    kept.write((squared, (3,)), 9)
    (file,) = kept.folder.iterdir()
    file.write_text('"nine"')
    assert kept.read((squared, (3,))) is None


def test_removed_parts_are_gone(kept: KeptParts[int | None]) -> None:
    kept.write((squared, (3,)), 9)
    kept.remove()
    assert not kept.folder.exists()
    kept.remove()
