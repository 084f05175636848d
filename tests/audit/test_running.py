"""An audit in a process of its own, with its folder."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedsim.audit import AuditPlan, running
from fedsim.core.errors import FedsimError
from fedsim.core.result_files import AUDIT
from fedsim.judgement.policy import Policy
from fedsim.record.store import RunFolder
from tests.audit.findings import record

Audited = Callable[..., object]


def test_a_folder_that_cannot_be_made_is_a_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FedsimError, match="cannot write to"), RunFolder(tmp_path / "file" / "out", AUDIT).renew():
        pass


@pytest.mark.parametrize("name", ["model-card.md", "evidence.html", "audit.json", "audit.log", "images.csv"])
def test_files_that_no_audit_wrote_stay(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with (
        pytest.raises(FedsimError, match=f"holds '{name}', which is not a file of fedsim"),
        RunFolder(tmp_path, AUDIT).renew(),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"


def test_files_of_an_earlier_audit_and_leftovers_of_its_killed_process_go(tmp_path: Path) -> None:
    with RunFolder(tmp_path, AUDIT).renew():
        running.write_results(record(Policy()), tmp_path)
        (tmp_path / ".fedsim-0123456789abcdef").write_text("half of a record")
    assert {"audit.json", "audit.html", "model-card.md", "evidence.html"} < {path.name for path in tmp_path.iterdir()}
    with RunFolder(tmp_path, AUDIT).renew():
        assert [path.name for path in tmp_path.iterdir()] == [".fedsim-lock"]


def test_an_audit_has_its_folder_for_itself(tmp_path: Path) -> None:
    with RunFolder(tmp_path, AUDIT).renew():
        running.write_results(record(Policy()), tmp_path)
        with pytest.raises(FedsimError, match="another fedsim is at work in"), RunFolder(tmp_path, AUDIT).renew():
            pass
        assert (tmp_path / "audit.json").exists()


def test_an_audit_and_a_run_do_not_replace_each_other(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "audit", AUDIT).renew():
        running.write_results(record(Policy()), tmp_path / "audit")
    for is_forced in (False, True):
        with pytest.raises(FedsimError, match="audit holds an audit. Choose another --out"):
            RunFolder(tmp_path / "audit").create(overwrite=is_forced)
    folder = RunFolder(tmp_path / "run")
    folder.create(overwrite=False)
    folder.write("record.json", b"{}")
    with (
        pytest.raises(FedsimError, match="run holds a run. Choose another --out"),
        RunFolder(folder.path, AUDIT).renew(),
    ):
        pass
    assert (folder.path / "record.json").exists()
    assert (tmp_path / "audit" / "audit.json").exists()


@pytest.fixture
def audited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Audited:
    root, here = Path(__file__).parents[2], Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", f"{root}:{here}")

    def run(target: str, **settings: object) -> object:
        plan = AuditPlan.model_validate({"target": target, "batches": (1,), "minutes": 1.0, **settings})
        return running.run(plan, Policy(), tmp_path / "out")

    return run


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        pytest.param(
            "clients:hangs_forward",
            {"minutes": 0.5},
            "did not return within [0-9]+ s, half of --minutes",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "clients:eats_memory",
            {"memory": 6.0},
            "'clients:eats_memory' ran out of the 6 GiB that --memory allows",
            marks=pytest.mark.slow,
        ),
        ("clients:dies", {}, "ended with -9, perhaps for lack of memory"),
        pytest.param(
            "clients:exits",
            {},
            r"'clients:exits' ended the process with exit code 3 \(clients.py, line",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_process_of_its_own_survives_everything(
    audited: Audited, name: str, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(FedsimError, match=message):
        audited(name, **settings)


@pytest.mark.slow
def test_the_import_of_what_is_audited_takes_none_of_its_time(audited: Audited, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\ntime.sleep(4)\n\n\ndef client():\n    while True:\n        time.sleep(1)\n"
    )
    with pytest.raises(FedsimError, match="did not return within 3 s, half of --minutes"):  # of 6 s, less the page's
        audited(f"{tmp_path / 'slow.py'}:client", minutes=0.1)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("write(frames.json_frame({'mistake': 'no loader'}))", "^no loader$"),
        ("write(frames.json_frame({'crash': 'LookupError'}))", "^the audit of 'a:b' failed: LookupError. .* holds its"),
        ("write(b'{not')", "ended with 5, perhaps for lack of memory"),
        ("write(frames.frame(b'x', b''))", "failed: its process sent a frame of kind b'x', expected b'j'"),
        ("write(frames.json_frame(' ' * (1 << 20)))", "failed: its process sent 1,048,578 bytes, expected at most"),
    ],
)
def test_a_process_that_says_no_end_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    program = f"import sys\nfrom fedsim.processes import frames\nwrite = sys.stdout.buffer.write\n{code}\nsys.exit(5)"
    monkeypatch.setattr(running, "command_of", lambda *_: [sys.executable, "-c", program])
    with pytest.raises(FedsimError, match=message):
        running.run(AuditPlan(target="a:b", batches=(1,), minutes=0.5), Policy(), tmp_path / "out")
