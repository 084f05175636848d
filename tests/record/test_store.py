import io
import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsim.core.errors import FedsimError
from fedsim.record import ArmUpdate, Environment, RunRecord, store
from fedsim.record.store import RunFolder, read_record


def record(arms: int = 2) -> RunRecord:
    """A record of a run that was killed while it trained its first arm."""
    here = Environment(
        command="", versions={}, python="", platform="", processor="", cores=1, torch_threads=1,
        git_commit=None, git_dirty=None,
    )  # fmt: skip
    return RunRecord(
        status="interrupted",
        plan={"arms": {"model.dropout": [0.0] * arms}},
        digest="0" * 16,
        threat_model=(),
        environment=here,
        started="2026-01-01T00:00:00+00:00",
    )


@pytest.fixture
def run_folder(tmp_path: Path) -> RunFolder:
    """A folder with everything that a run of two arms leaves, made by its own writers where that is quick."""
    folder = RunFolder(tmp_path / "run")
    folder.create(overwrite=False)
    folder.write_record(record())
    folder.write_arrays({"a": np.ones(2)})
    for arm in range(2):
        folder.write_weights(arm, {"w": torch.ones(2)})
        folder.write_updates(arm, {"u": np.ones(2)})
    for name in ("figures/wall-1-all.png", "figures/accuracy.csv", "scores.csv"):
        folder.write(name, b"")
    (folder.path / "figures" / ".fedsim-cut").write_text("")
    return folder


@pytest.fixture
def new_folder(tmp_path: Path) -> RunFolder:
    """The folder of a run that has written nothing."""
    folder = RunFolder(tmp_path / "run")
    folder.create(overwrite=False)
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path, new_folder: RunFolder) -> Path:
    """A folder with a file that has the name of one in the folder of the run, and is not fedsim's."""
    new_folder.write("in-work/parts.jsonl", b"ours")
    path = tmp_path / "elsewhere"
    path.mkdir()
    (path / "parts.jsonl").write_text("precious")
    return path


def become_link(path: Path, target: Path) -> None:
    """Put a link in the place of a folder."""
    path.rename(path.with_name("was"))
    path.symlink_to(target)


def everything(path: Path) -> set[str]:
    return {str(own.relative_to(path)) for own in path.rglob("*")}


def test_an_existing_run_is_kept_unless_overwritten(run_folder: RunFolder) -> None:
    with pytest.raises(FedsimError, match="--overwrite"):
        RunFolder(run_folder.path).create(overwrite=False)
    assert list(run_folder.read_arrays()) == ["a"]
    run_folder.create(overwrite=True)
    assert everything(run_folder.path) == set()


@pytest.mark.parametrize(
    "name", ["weights/thesis.bin", "weights/arm-2.npz", "figures/thesis.png", "notes/a", "a", "salt"]
)
def test_without_a_manifest_nothing_is_removed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("precious")
    with pytest.raises(FedsimError, match=f"holds '{name}', which is not a file of fedsim"):
        RunFolder(tmp_path).create(overwrite=True)
    assert (tmp_path / name).read_text() == "precious"


def test_a_manifest_reaches_no_file_outside_its_folder(run_folder: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with (run_folder.path / ".fedsim-files").open("a") as manifest:
        manifest.write(f"../thesis.tex\n{tmp_path}/thesis.tex\nrecord.json\n")
    run_folder.create(overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_a_name_that_a_kill_cut_off_spoils_no_other(run_folder: RunFolder) -> None:
    with (run_folder.path / ".fedsim-files").open("a") as manifest:
        manifest.write("figures/wal")
    run_folder.write("report.html", b"")
    run_folder.create(overwrite=True)
    assert everything(run_folder.path) == set()


def killed_at(step: str, folder: RunFolder, name: str, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a file of a run, and kill the process at a step: before the file, or before its name in the manifest."""
    append = store.append_inside

    def append_until_name(root: Path, manifest: str, line: bytes) -> None:
        append(root, manifest, sys.exit("killed") if line == name.encode() else line)

    with monkeypatch.context() as patch:
        if step == "file":
            patch.setattr(store, "write_inside", lambda *_arguments, **_options: sys.exit("killed"))
        else:
            patch.setattr(store, "append_inside", append_until_name)
        with pytest.raises(SystemExit):
            folder.write(name, content)


def test_a_file_with_the_name_of_a_killed_write_stays(run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_at("file", run_folder, "report.html", b"ours", monkeypatch)
    (run_folder.path / "report.html").write_text("precious")
    for attempt in (lambda: run_folder.create(overwrite=True), lambda: run_folder.write("report.html", b"other")):
        with pytest.raises(FedsimError, match="holds 'report.html', which is not a file of fedsim"):
            attempt()
    assert (run_folder.path / "report.html").read_text() == "precious"


@pytest.mark.parametrize("step", ["file", "name"])
def test_a_killed_write_can_be_repeated_and_replaced(
    run_folder: RunFolder, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at(step, run_folder, "figures/b.png", b"ours", monkeypatch)
    killed_at(step, run_folder, "figures/a.png", b"", monkeypatch)
    run_folder.write("figures/b.png", b"later")
    run_folder.write("figures/b.png", b"last")
    assert (run_folder.path / "figures" / "b.png").read_bytes() == b"last"
    run_folder.create(overwrite=True)
    assert everything(run_folder.path) == set()


def test_a_reserved_file_is_empty_until_another_writer_fills_it(run_folder: RunFolder) -> None:
    for _ in range(2):
        run_folder.reserve("audit.log")
        with (run_folder.path / "audit.log").open("a") as log:
            log.write("line")
    assert (run_folder.path / "audit.log").read_text() == "lineline"
    run_folder.create(overwrite=True)
    assert everything(run_folder.path) == set()


def test_a_manifest_that_is_no_text_says_nothing_of_others(run_folder: RunFolder) -> None:
    (run_folder.path / ".fedsim-files").write_bytes(b"\xff\xfe\x00")
    before = everything(run_folder.path)
    with pytest.raises(FedsimError, match="which is not a file of fedsim"):
        run_folder.create(overwrite=True)
    assert everything(run_folder.path) == before


def test_a_run_that_was_killed_before_its_record_is_no_run(new_folder: RunFolder) -> None:
    new_folder.write_salt(bytes(16))
    new_folder.write_weights(0, {"w": torch.ones(2)})
    new_folder.create(overwrite=False)
    assert everything(new_folder.path) == set()


@pytest.mark.parametrize("is_folder", [True, False])
def test_a_link_or_a_folder_in_the_place_of_ours_is_refused(
    run_folder: RunFolder, tmp_path: Path, is_folder: bool
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "thesis.bin").write_text("precious")
    if is_folder:
        (run_folder.path / "scores.csv").unlink()
        (tmp_path / "elsewhere").rename(run_folder.path / "scores.csv")
    else:
        (run_folder.path / "weights").rename(tmp_path / "moved")
        (run_folder.path / "weights").symlink_to(tmp_path / "elsewhere")
    before = everything(tmp_path)
    with pytest.raises(FedsimError, match="scores.csv" if is_folder else "weights"):
        run_folder.create(overwrite=True)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("name", ["figures", "weights", "updates", "in-work"])
@pytest.mark.parametrize("is_dangling", [True, False])
def test_no_file_is_written_through_a_link_to_a_folder(
    tmp_path: Path, new_folder: RunFolder, name: str, is_dangling: bool
) -> None:
    elsewhere = tmp_path / "elsewhere"
    if not is_dangling:
        elsewhere.mkdir()
        (elsewhere / "wall.png").write_text("precious")
    (new_folder.path / name).symlink_to(elsewhere)
    before = everything(tmp_path)
    with pytest.raises(FedsimError, match=f"run/{name} is a symbolic link.*{elsewhere}"):
        new_folder.write(f"{name}/wall.png", b"picture")
    assert everything(tmp_path) == before
    assert is_dangling or (elsewhere / "wall.png").read_text() == "precious"


@pytest.mark.parametrize("deed", ["write", "append", "remove"])
def test_a_folder_that_becomes_a_link_after_the_check_leads_no_file_elsewhere(
    new_folder: RunFolder, elsewhere: Path, deed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deeds = {
        "write": lambda: new_folder.write("in-work/parts.jsonl", b"new"),
        "append": lambda: new_folder.append(ArmUpdate(arm=0, place=0), {}),
        "remove": lambda: new_folder.create(overwrite=True),
    }
    checked = "check_writable" if deed == "remove" else "make_inner_folder"
    real = getattr(store, checked)
    swap = partial(become_link, new_folder.path / "in-work", elsewhere)
    monkeypatch.setattr(store, checked, lambda *given: (real(*given), swap())[0])
    with pytest.raises(FedsimError, match="in-work/parts.jsonl: Not a directory"):
        deeds[deed]()
    assert everything(elsewhere) == {"parts.jsonl"}
    assert (elsewhere / "parts.jsonl").read_text() == "precious"


def test_the_parts_of_a_record_are_not_removed_through_a_link(
    new_folder: RunFolder, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, swap = store.io_advice, partial(become_link, new_folder.path / "in-work", elsewhere)
    monkeypatch.setattr(store, "io_advice", lambda path: (swap(), real(path))[1])
    with pytest.raises(FedsimError, match="in-work/parts.jsonl: Not a directory"):
        new_folder._forget_parts()
    assert (elsewhere / "parts.jsonl").read_text() == "precious"


def test_a_link_in_the_place_of_a_file_is_replaced_and_its_target_stays(tmp_path: Path, new_folder: RunFolder) -> None:
    (tmp_path / "thesis.csv").write_text("precious")
    for name in ("scores.csv", "figures/accuracy.csv"):
        new_folder.write(name, b"earlier")
        (new_folder.path / name).unlink()
        (new_folder.path / name).symlink_to(tmp_path / "thesis.csv")
        new_folder.write(name, b"scores")
        assert not (new_folder.path / name).is_symlink()
        assert (new_folder.path / name).read_bytes() == b"scores"
    (new_folder.path / "table.csv").symlink_to(tmp_path / "thesis.csv")
    with pytest.raises(FedsimError, match="holds 'table.csv', which is not a file of fedsim"):
        new_folder.write("table.csv", b"scores")
    assert (tmp_path / "thesis.csv").read_text() == "precious"


def test_what_a_killed_write_left_is_no_run(tmp_path: Path) -> None:
    (tmp_path / ".fedsim-cut").write_text("half")
    RunFolder(tmp_path).create(overwrite=False)
    assert everything(tmp_path) == set()


def test_a_folder_with_other_things_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(FedsimError, match="thesis.tex"):
        RunFolder(tmp_path).create(overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FedsimError, match="cannot write to"):
        RunFolder(tmp_path / "file" / "run").create(overwrite=False)


def test_a_failing_write_leaves_the_old_file_and_no_rest(
    new_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_folder.write_arrays({"a": np.ones(2)})

    def full_disk(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(FedsimError, match=r"cannot write to .*arrays.npz: No space left on device. Make room"):
        new_folder.write_arrays({"b": np.ones(3)})
    assert list(new_folder.read_arrays()) == ["a"]
    assert everything(new_folder.path) == {".fedsim-files", "arrays.npz"}


def test_of_two_that_want_a_folder_one_gets_it(run_folder: RunFolder) -> None:
    before = everything(run_folder.path)
    with run_folder.lock():
        with pytest.raises(FedsimError, match="another fedsim is at work in"), RunFolder(run_folder.path).lock():
            pass
        with pytest.raises(FedsimError, match="--overwrite"):
            run_folder.create(overwrite=False)
    with RunFolder(run_folder.path).lock():
        pass
    assert everything(run_folder.path) == before


def test_what_killed_writes_left_goes_when_the_run_goes_on(run_folder: RunFolder) -> None:
    for name in ("", "weights/", "updates/", "figures/"):
        (run_folder.path / f"{name}.fedsim-0123").write_text("half")
    with run_folder.lock():
        run_folder.reopen()
        assert (run_folder.path / ".fedsim-lock").exists()
    assert [name for name in everything(run_folder.path) if ".fedsim-" in name] == [".fedsim-files"]


@pytest.mark.parametrize("content", ["", "{", '{"schema_version": 3}', '{"schema_version": 3, "arms": [1]}'])
def test_a_corrupt_record_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(FedsimError, match=r"record.json cannot be read"):
        read_record(tmp_path)
    with pytest.raises(FedsimError, match="no folder"):
        read_record(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["arrays.npz", "in-work/0000.npz"])
def test_arrays_that_cannot_be_read_are_named(run_folder: RunFolder, name: str) -> None:
    path = run_folder.path / name
    path.parent.mkdir(exist_ok=True)
    whole = store.npz({"a": np.arange(1000.0), "b": np.ones(3)})
    pickled = io.BytesIO()
    np.savez(pickled, a=np.array([{}, []], dtype=object))
    single = io.BytesIO()
    np.save(single, np.ones(3))
    damaged = bytearray(whole)
    damaged[60:80] = bytes(20)
    contents = (b"", b"PK", whole[:-1], whole[: len(whole) // 2], bytes(damaged), b"{}", single.getvalue())
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(FedsimError, match=f"cannot read arrays from .*{name}: .*numpy.savez") as raised:
            run_folder.read_arrays()
        assert "allow_pickle" not in str(raised.value)
    path.write_bytes(pickled.getvalue())
    with pytest.raises(FedsimError, match=f"{name}: it holds Python objects, which could run code"):
        run_folder.read_arrays()
    path.write_bytes(whole)
    assert np.array_equal(run_folder.read_arrays()["b"], np.ones(3))


def test_a_pipe_is_no_record_and_no_arrays(run_folder: RunFolder) -> None:
    for name in ("arrays.npz", "record.json"):
        (run_folder.path / name).unlink()
        os.mkfifo(run_folder.path / name)
    with pytest.raises(FedsimError, match=r"arrays\.npz: it is no regular file"):
        run_folder.read_arrays()
    with pytest.raises(FedsimError, match=r"record\.json cannot be read: no regular file"):
        read_record(run_folder.path)


@pytest.mark.parametrize("version", [2, 4])
def test_a_record_of_another_schema_is_refused(tmp_path: Path, version: int) -> None:
    (tmp_path / "record.json").write_text(f'{{"schema_version": {version}, "arms": [1]}}')
    wanted = rf"record.json has schema version {version}, expected 3: another version of fedsim made it\. Run it again"
    with pytest.raises(FedsimError, match=wanted):
        read_record(tmp_path)


def test_large_arrays_are_not_compressed_and_read_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {"zeros": np.zeros(1000), "counted": np.arange(5)}
    small = store.npz(arrays)
    monkeypatch.setattr(store, "_LARGE", 100)
    large = store.npz(arrays)
    assert len(small) < 2000 < arrays["zeros"].nbytes < len(large)
    with np.load(io.BytesIO(large), allow_pickle=False) as read:
        assert all(np.array_equal(read[name], own) for name, own in arrays.items())
