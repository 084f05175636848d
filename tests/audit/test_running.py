"""An audit in a process of its own, with its folder."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fedsim.audit import AuditPlan, running
from fedsim.core.errors import FedsimError
from fedsim.record.policy import Policy

Audited = Callable[..., object]


def test_a_folder_that_cannot_be_made_is_a_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FedsimError, match="cannot write to"):
        running.prepare(tmp_path / "file" / "out")


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
        pytest.param("clients:raises", {}, "'clients:raises' failed: ZeroDivisionError", marks=pytest.mark.slow),
        pytest.param(
            "clients:hangs",
            {"minutes": 0.5},
            "did not return within [0-9]+ s, half of --minutes",
            marks=pytest.mark.slow,
        ),
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
            "clients:leaves",
            {},
            r"'clients:leaves' ended the process with exit code 0 \(clients.py, line",
            marks=pytest.mark.slow,
        ),
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


def test_a_folder_with_other_things_is_left_alone(audited: Audited, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("dear")
    with pytest.raises(FedsimError, match=r"holds 'thesis.txt', which is not part of an audit"):
        audited("clients:make")


@pytest.mark.slow
def test_the_import_of_what_is_audited_takes_none_of_its_time(audited: Audited, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\ntime.sleep(4)\n\n\ndef client():\n    while True:\n        time.sleep(1)\n"
    )
    with pytest.raises(FedsimError, match="did not return within 3 s, half of --minutes"):  # of 6 s, less the page's
        audited(f"{tmp_path / 'slow.py'}:client", minutes=0.1)
