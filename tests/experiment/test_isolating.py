"""The salt of what attackers draw from: secret, kept for its owner, and all that makes an isolated run another one."""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedsim.core.errors import FedsimError
from fedsim.experiment import runner
from fedsim.experiment.isolating import choose_start, describe_open
from fedsim.processes import landlock
from fedsim.processes.methods import Start, start_in_process
from fedsim.record import RunRecord
from fedsim.record.store import RunFolder
from fedsim.scenario import Scenario
from tests.experiment.running import Silent, results

Build = Callable[..., Scenario]
KNOWN = "00112233445566778899aabbccddeeff"


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "run")
    made.create(overwrite=False)
    return made


@pytest.fixture
def salt(tmp_path: Path) -> Path:
    path = tmp_path / "known"
    path.write_text(KNOWN)
    return path


def test_an_isolated_run_keeps_a_new_salt_for_its_owner_alone(folder: RunFolder, tmp_path: Path) -> None:
    choose_start(folder, isolate=True, salt=None)
    kept = folder.path / "salt"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert len(bytes.fromhex(kept.read_text())) == 16
    other = RunFolder(tmp_path / "other")
    other.create(overwrite=False)
    choose_start(other, isolate=True, salt=None)
    assert (other.path / "salt").read_text() != kept.read_text()


def test_without_isolation_nothing_is_salted_unless_somebody_gives_a_salt(folder: RunFolder, salt: Path) -> None:
    assert choose_start(folder, isolate=False, salt=None) is start_in_process
    assert not (folder.path / "salt").exists()
    assert choose_start(folder, isolate=False, salt=salt) is not start_in_process
    assert (folder.path / "salt").read_text().strip() == KNOWN


@pytest.mark.parametrize(("version", "gaps"), [(0, "files, the network"), (5, "signals to other processes"), (6, "")])
def test_an_older_machine_says_what_it_does_not_close(monkeypatch: pytest.MonkeyPatch, version: int, gaps: str) -> None:
    monkeypatch.setattr(landlock, "version", lambda: version)
    sentence = describe_open()
    assert gaps in sentence
    assert bool(sentence) == bool(gaps)


def test_a_resumed_run_goes_on_with_the_salt_that_it_kept(folder: RunFolder, salt: Path, tmp_path: Path) -> None:
    folder.write_salt(bytes.fromhex(KNOWN))
    choose_start(folder, isolate=True, salt=None)
    choose_start(folder, isolate=True, salt=salt)
    assert (folder.path / "salt").read_text().strip() == KNOWN
    salt.write_text(KNOWN[::-1])
    with pytest.raises(FedsimError, match="another salt than .*known. Leave out --salt"):
        choose_start(folder, isolate=True, salt=salt)


@pytest.mark.parametrize("content", ["", "0011", "no salt", f"{KNOWN}00"])
def test_a_file_that_holds_no_salt_is_refused(folder: RunFolder, tmp_path: Path, content: str) -> None:
    (tmp_path / "bad").write_text(content)
    with pytest.raises(FedsimError, match="bad holds no salt, expected 32 hexadecimal digits"):
        choose_start(folder, isolate=True, salt=tmp_path / "bad")
    with pytest.raises(FedsimError, match="cannot read the salt .*absent: No such file"):
        choose_start(folder, isolate=True, salt=tmp_path / "absent")


def run(scenario: Scenario, path: Path, start: Start) -> RunRecord:
    made = RunFolder(path)
    made.create(overwrite=False)
    return runner.run(scenario, made, Silent(), command="test", earlier=None, start=start)


def test_seed_and_salt_together_say_what_attacks_draw_and_nothing_else(
    scenario: Build, tmp_path: Path, folder: RunFolder, salt: Path
) -> None:
    built = scenario(attacks=[{"name": "inverting-gradients", "max_iterations": 2}], threat={"victims": 2})
    plain = run(built, tmp_path / "plain", start_in_process)
    salted = [run(built, tmp_path / f"salted{n}", _salted(tmp_path, n, salt)) for n in range(2)]
    salt.write_text(KNOWN[::-1])
    other = run(built, tmp_path / "other", _salted(tmp_path, 2, salt))
    assert results(salted[0]) == results(salted[1])
    assert results(salted[0]) != results(plain)
    assert results(salted[0]) != results(other)
    assert plain.arms[0].model_hash == salted[0].arms[0].model_hash == other.arms[0].model_hash


def _salted(tmp_path: Path, number: int, salt: Path, *, isolate: bool = False) -> Start:
    made = RunFolder(tmp_path / f"place{number}")
    made.create(overwrite=False)
    return choose_start(made, isolate=isolate, salt=salt)


@pytest.mark.slow
def test_with_one_salt_isolated_or_not_the_bytes_are_the_same(scenario: Build, tmp_path: Path, salt: Path) -> None:
    attacks: list[dict[str, Any]] = [{"name": "inverting-gradients", "max_iterations": 2}]
    built = scenario(attacks=attacks, threat={"victims": 2})
    here = run(built, tmp_path / "here", _salted(tmp_path, 0, salt))
    apart = run(built, tmp_path / "apart", _salted(tmp_path, 1, salt, isolate=True))
    assert results(here) == results(apart)
    assert (tmp_path / "here" / "arrays.npz").read_bytes() == (tmp_path / "apart" / "arrays.npz").read_bytes()
