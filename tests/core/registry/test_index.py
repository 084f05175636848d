"""What decorators say is read as it is registered."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.registry.index import entries_of, entry_of, is_marked, read

OURS = ("attacks.", "defenses.", "fedsim.")
MARK = "from fedsim.core.registry import attack, component\n"


@pytest.mark.parametrize("kind", registry.KINDS)
def test_the_index_says_what_a_full_discovery_registers(kind: registry.Kind) -> None:
    registered = {name: method for name, method in registry.methods(kind).items() if method.module.startswith(OURS)}
    said = {
        name: registry.Entry(**{field.name: getattr(method, field.name) for field in fields(registry.Entry)})
        for name, method in registered.items()
    }
    assert entries_of(kind) == said
    assert {name: entry_of(kind, name) for entry in said.values() for name in entry.names} == {
        name: entry for entry in said.values() for name in entry.names
    }


def written(folder: Path, text: str) -> Path:
    path = folder / "method.py"
    path.write_text(text)
    return path


def test_names_that_a_file_gives_to_texts_and_texts_in_parts_are_read(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        f'{MARK}_NAME = "mine"  # as the paper calls it\n\n'
        '@attack(\n    _NAME,\n    summary="one "\n    "and (two)",\n    aliases=("my", "own"),\n)\n'
        "@final\nclass Mine:\n    pass\n\n"
        '@component("part", summary="a part", paper="1", extra="llm")\ndef part():\n    pass\n',
    )
    mine, part = read(path)
    assert (mine.kind, mine.names, mine.summary) == ("attack", ("mine", "my", "own"), "one and (two)")
    assert (part.kind, part.names, part.paper, part.extra, part.hook) == ("component", ("part",), "1", "llm", None)


def test_a_file_that_does_not_name_the_registry_is_not_read(tmp_path: Path) -> None:
    path = written(tmp_path, '@attack(compute(), summary="another library\'s")\nclass Other:\n    pass\n')
    assert not is_marked(path)
    assert read(path) == []


@pytest.mark.parametrize("name", ['"a" + suffix, ', "NAME, ", "compute(), ", '"two", "names", ', ""])
def test_what_a_decorator_computes_cannot_be_read(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, f'{MARK}@attack({name}summary="computed")\nclass Computed:\n    pass\n')
    with pytest.raises(FedsimError, match=f"{re.escape(str(path))}: name and summary, .* in @attack are read before"):
        read(path)


def test_decorators_in_texts_and_comments_and_of_other_libraries_are_no_methods(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        f'{MARK}TEXT = """\n@attack("in-a-text", summary="no")\nclass No: pass\n"""\n'
        '# @attack("in-a-comment", summary="no")\n'
        '@other.attack("of-another-library", summary="no")\nclass Other:\n    pass\n'
        '@registry.attack("mine", summary="yes")\nclass Mine:\n    @component("inner", summary="no")\n'
        "    def inner(self): pass\n",
    )
    assert [entry.name for entry in read(path)] == ["mine"]


def test_a_constant_on_several_lines_is_read(tmp_path: Path) -> None:
    path = written(
        tmp_path, f'{MARK}_SUMMARY = (\n    "one "\n    "two"\n)\n@attack("mine", summary=_SUMMARY)\nclass Mine: pass\n'
    )
    assert read(path)[0].summary == "one two"


def test_a_file_that_is_no_python_has_no_methods(tmp_path: Path) -> None:
    path = written(tmp_path, f'{MARK}@attack("mine", summary="a"\nclass Mine: pass\n')
    assert read(path) == []


def test_no_such_method_is_in_the_index() -> None:
    assert entry_of("attack", "dropout-inversoin") is None
    assert entry_of("defense", "dropout-inversion") is None
