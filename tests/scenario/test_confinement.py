"""Which paths lead out of a folder, and that every setting that names a file is known as such."""

import re
from pathlib import Path

import pytest
from pydantic.fields import FieldInfo

from fedsim.core import registry
from fedsim.core.registry.method import KINDS
from fedsim.core.settings import NAMES_PATH
from fedsim.scenario.confinement import leaves, texts_in

NAMES_A_FILE = re.compile(r"\b(file|folder)\b")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "root"
    (root / "deep" / "deeper").mkdir(parents=True)
    (root / "deep" / "file").write_text("")
    (tmp_path / "root-beside").mkdir()
    (root / "out").symlink_to(tmp_path / "root-beside")
    (root / "deep" / "in").symlink_to(root / "deep" / "file")
    (root / "far" / "below").mkdir(parents=True)
    (root / "far" / "below" / "out").symlink_to("/etc/hostname")
    (root / "near" / "below").mkdir(parents=True)
    (root / "near" / "below" / "on").symlink_to("../../far")
    (root / "nearer").mkdir()
    (root / "nearer" / "on").symlink_to("../near/below")
    (root / "round").mkdir()
    (root / "round" / "up").symlink_to("../round")
    (root / "round" / "in").symlink_to("../deep")
    (root / "up").mkdir()
    (root / "up" / "whole").symlink_to("..")
    (root / "alias-of-near").symlink_to("near")
    monkeypatch.chdir(root)
    return root


@pytest.mark.parametrize(
    ("text", "does"),
    [
        ("deep/file", False),
        ("deep", False),
        ("deep/../deep/file", False),
        ("deep/in", False),
        ("no-file", False),
        ("a/b", False),
        ("", False),
        ("nul\0", False),
        ("..", True),
        ("../root-beside", True),
        ("../root/deep", False),
        ("/", True),
        ("/no/such/file", True),
        ("../no-such-file", True),
        ("out", True),
        ("out/file", True),
        ("out/../../x", True),
        ("far", True),
        ("far/below", True),
        ("near", True),  # a link leads to a folder whose own link leaves
        ("nearer", True),
        ("alias-of-near", True),
        ("up", True),  # a link to the whole folder, with its other links
        ("round", False),
        ("x" * 5000, False),
        ("/" + "x" * 5000, True),
    ],
)
def test_a_path_leaves_by_itself_or_by_a_link(root: Path, text: str, does: bool) -> None:
    assert leaves(text, root) is does
    assert leaves(text, Path()) is does


def test_a_link_to_the_folder_itself_is_the_folder(root: Path) -> None:
    (root.parent / "alias").symlink_to(root)
    assert not leaves("deep/file", root.parent / "alias")
    assert not leaves(f"{root.parent}/alias/deep/file", root)


def test_texts_are_values_at_any_depth() -> None:
    raw = {"key": "a", "table": {"inner": ["b", {"deep": ("c", 1, None, True)}]}, "number": 2.0}
    assert list(texts_in(raw)) == ["a", "b", "c"]


def is_known(field: FieldInfo) -> bool:
    return NAMES_PATH in field.metadata or "Path" in str(field.annotation)


def test_every_setting_that_names_a_file_or_folder_is_known_as_a_path() -> None:
    fields = {
        f"{kind} {name}: {key}": field
        for kind in KINDS
        if kind != "metric"
        for name, method in registry.methods(kind).items()
        for key, field in method.config.model_fields.items()
        if "str" in str(field.annotation) or "Path" in str(field.annotation)
    }
    named = {key: field for key, field in fields.items() if NAMES_A_FILE.search(field.description or "")}
    assert named
    assert [key for key, field in named.items() if not is_known(field)] == []
