"""An attack in a process of its own: the same result, nothing of the truth in it, and its failures stay its own."""

import signal
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.core.time_budget import DeadlineReached, time_limit
from fedsim.core.types import Observation, Step
from fedsim.processes import frames, packing
from fedsim.processes import subprocess_runner as apart
from fedsim.processes.child_process import ChildProcess
from fedsim.processes.methods import max_victims, search, start_in_process
from fedsim.processes.subprocess_runner import SubprocessRunner, start_in_subprocess
from fedsim.scenario import AttackChoice
from tests.cli.typed import started
from tests.experiment.running import Build, results
from tests.federating import recorded
from tests.processes.packages import install
from tests.processes.waiting import is_alive, until

Watched = Callable[..., tuple[Observation, Any, Any]]


STRANGE = '''
    """Does what its setting says."""
    import gc, os
    import torch
    from fedsim.core.hooks import Attack
    from fedsim.core.registry import attack
    from fedsim.core.types import Config, Reconstruction, Truth, WireEntry
    from fedsim.scenario.world import World

    class StrangeConfig(Config):
        deed: str = ""

    @attack("strange", summary="does what its setting says")
    class Strange(Attack[StrangeConfig]):
        def search(self, observation, generator, on_step):
            deed = self.config.deed
            if deed == "end":
                os._exit(7)
            if deed == "raise":
                raise ZeroDivisionError("a bug")
            print("no answer", flush=True)
            found = sum(type(item) in (Truth, WireEntry, World) for item in gc.get_objects())
            drawn = torch.rand(1, *observation.spec.shape, generator=generator)
            return Reconstruction(
                drawn, torch.zeros(1, dtype=torch.long), None, float("nan"), 1, 1, (), "done",
                diagnostics={"truths": found}, trained=object() if deed == "object" else None,
            )
'''


@pytest.fixture
def strange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_methods: None) -> None:
    """An installed package with an attack, for this process and its children."""
    install(tmp_path / "site", monkeypatch, "fedsim.attacks", "strange_attack", STRANGE)


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_the_record_and_the_pictures_are_the_same_bytes(scenario: Build, tmp_path: Path) -> None:
    built = scenario(
        federation={"clients": 4, "rounds": 2, "batch_size": 2},
        threat={"victims": 2},
        attacks=[
            {"name": "inverting-gradients", "max_iterations": 12, "label": "IG"},
            {"name": "wiig", "max_iterations": 8, "also_knows": ["masks"]},
            {"name": "closed-form-linear"},
        ],
    )
    here = recorded(built, tmp_path / "here", start=start_in_process)
    apart = recorded(built, tmp_path / "apart", start=start_in_subprocess)
    assert results(here) == results(apart)
    assert (tmp_path / "here" / "arrays.npz").read_bytes() == (tmp_path / "apart" / "arrays.npz").read_bytes()
    assert here.arms[0].attacks[0].victims[0].failure is None


@pytest.mark.parametrize(
    ("deed", "why"),
    [
        ("end", "its process ended with 7 before it answered."),
        pytest.param("raise", "ZeroDivisionError: a bug (strange_attack.py", marks=pytest.mark.slow),
        pytest.param("object", "its answer holds a object, expected tensors, numbers and text", marks=pytest.mark.slow),
    ],
)
def test_what_an_attack_does_to_its_process_is_its_own_failure(
    scenario: Build, tmp_path: Path, strange: None, deed: str, why: str
) -> None:
    attacks = [{"name": "strange", "deed": deed}]
    built = scenario(attacks=attacks, threat={"victims": 2}, model={"dropout": 0.0})
    victims = recorded(built, tmp_path / "apart", start=start_in_subprocess).arms[0].attacks[0].victims
    assert len(victims) == 2
    assert all(why in str(victim.failure) for victim in victims)


@pytest.mark.slow
def test_in_the_scorers_process_the_truth_can_be_found_and_the_guess_is_the_same(
    scenario: Build, tmp_path: Path, strange: None
) -> None:
    built = scenario(attacks=[{"name": "strange"}], threat={"victims": 2}, model={"dropout": 0.0})
    here, apart = (
        recorded(built, tmp_path / name, start=how)
        for name, how in (("here", start_in_process), ("apart", start_in_subprocess))
    )
    assert all(victim.diagnostics["truths"] > 0 for victim in here.arms[0].attacks[0].victims)
    assert (tmp_path / "here" / "arrays.npz").read_bytes() == (tmp_path / "apart" / "arrays.npz").read_bytes()
    assert [(victim.failure, victim.diagnostics["truths"]) for victim in apart.arms[0].attacks[0].victims] == [
        (None, 0)
    ] * 2


def test_somebody_who_asks_to_stop_is_heard_between_two_steps_and_ends_the_process(watched: Watched) -> None:
    observation, _, _ = watched()
    endless = {"name": "inverting-gradients", "max_iterations": 1_000_000, "threshold": 0.0, "patience": 1_000_000}
    shown: list[Step] = []
    with start_in_subprocess(AttackChoice.model_validate(endless), lambda: len(shown) > 2) as attacker:
        assert max_victims(attacker, observation) >= 1
        with pytest.raises(KeyboardInterrupt):
            search(attacker, [observation], [seeding.generator(1, "attack")], shown.append)
        child = attacker._child  # type: ignore[attr-defined]
        assert child.code is None
    assert child.code == -signal.SIGKILL
    assert [step.iteration for step in shown] == [1, 2, 3]
    assert shown[0].guess.shape == (1, 1, 8, 8)


def test_the_deadline_of_the_caller_ends_an_isolated_attack_and_its_process(watched: Watched) -> None:
    """The caller waits and uses no time itself: what its attack uses counts."""
    observation, _, _ = watched()
    endless = {"name": "inverting-gradients", "max_iterations": 1_000_000, "threshold": 0.0, "patience": 1_000_000}
    shown: list[Step] = []
    with start_in_subprocess(AttackChoice.model_validate(endless), lambda: len(shown) > 100_000) as attacker:
        assert max_victims(attacker, observation) >= 1
        with time_limit(1.0), pytest.raises(DeadlineReached):
            search(attacker, [observation], [seeding.generator(1, "attack")], shown.append)
        assert attacker._child.code == -signal.SIGKILL  # type: ignore[attr-defined]
    assert shown


@pytest.mark.slow
def test_after_an_answer_that_cannot_be_read_a_new_process_answers(watched: Watched) -> None:
    observation, _, _ = watched()
    choice = AttackChoice.model_validate({"name": "inverting-gradients", "max_iterations": 3})

    def broken(_step: Step) -> None:
        raise ValueError("nobody understands this step")

    with start_in_subprocess(choice, lambda: False) as attacker:
        why = search(attacker, [observation], [seeding.generator(1, "attack")], broken)
        assert "nobody understands this step" in str(why)
        found = search(attacker, [observation], [seeding.generator(1, "attack")], lambda _step: None)
    with start_in_process(choice, lambda: False) as attacker:
        expected = search(attacker, [observation], [seeding.generator(1, "attack")], lambda _step: None)
    assert isinstance(found, list)
    assert isinstance(expected, list)
    assert torch.equal(found[0].inputs, expected[0].inputs)


def test_an_observation_that_cannot_travel_is_the_attacks_failure(watched: Watched) -> None:
    observation, _, _ = watched()
    choice = AttackChoice.model_validate({"name": "inverting-gradients", "max_iterations": 3})
    local = replace(observation, loss=lambda outputs, _labels: outputs.sum())
    with start_in_subprocess(choice, lambda: False) as attacker:
        assert max_victims(attacker, local) == 1
        why = search(attacker, [local], [seeding.generator(1, "attack")], lambda _step: None)
    assert "cannot be sent to a subprocess" in str(why)
    assert "without --isolate" in str(why)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_process_ends_with_its_run(tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "s.toml").write_text(
        'title="t"\n[data]\nname="digits"\n[model]\nname="mlp"\nwidth=24\n[federation]\nclients=4\n'
        '[[attacks]]\nname="inverting-gradients"\nmax_iterations=1000000\nthreshold=0.0\npatience=1000000\n'
    )
    with started("run", "s.toml", "--out", "out", "--isolate", cwd=tmp_path) as process:
        child = until(lambda: next(iter(children(process.pid)), None))
        process.signal(how)
        assert process.wait(60) == (130 if how == signal.SIGINT else -signal.SIGKILL)
        assert until(lambda: not is_alive(child))


def answering(
    monkeypatch: pytest.MonkeyPatch, code: str, should_stop: Callable[[], bool] = lambda: False
) -> SubprocessRunner:
    """Return a process that runs this code in place of an attack's."""

    monkeypatch.setattr(apart, "_start", lambda: ChildProcess([sys.executable, "-c", code]))
    return SubprocessRunner({}, should_stop)


@pytest.mark.parametrize("kind", [frames.ANSWER, frames.STEP])
def test_an_answer_longer_than_any_guess_is_refused_before_it_is_read(
    monkeypatch: pytest.MonkeyPatch, kind: bytes
) -> None:
    head = struct.pack("<cQ", kind, 1 << 62)
    endless = f"import os\nos.write(1, {head!r})\nwhile True: os.write(1, bytes(1 << 20))"
    process = answering(monkeypatch, endless)
    try:
        with pytest.raises(FedsimError, match=r"its answer has 4,611,686,018,427,387,904 bytes, expected at most 67,"):
            process.ask(frames.CALL, None)
    finally:
        process.end()


def test_a_larger_question_may_have_a_longer_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    most = apart._ROOM + 4 * (len(packing.serialise_value(None)) + 1000)
    for length, is_refused in ((most, False), (most + 1, True)):
        head = struct.pack("<cQ", frames.ANSWER, length)
        process = answering(monkeypatch, f"import os, sys\nsys.stdout.buffer.write({head!r} + bytes({length}))")
        try:
            if is_refused:
                with pytest.raises(FedsimError, match="expected at most"):
                    process.ask(frames.CALL, None, expected=1000)
            else:
                assert len(process.ask(frames.CALL, None, expected=1000)[1]) == length
        finally:
            process.end()


def test_somebody_who_asks_to_stop_is_heard_while_the_process_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = time.monotonic()
    process = answering(monkeypatch, "import time\ntime.sleep(600)", lambda: time.monotonic() > begin + 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            process.ask(frames.CALL, torch.zeros(1 << 20))
    finally:
        process.end()
    assert process._child.code == -signal.SIGKILL


def test_examples_and_masks_that_are_asked_about_make_room(watched: Watched) -> None:
    observation, _, _ = watched()
    known = replace(observation, batch_size=3, examples=6, local_steps=2)
    masks = sum(_product(site.shape) for site in known.sites)
    assert masks > 0
    assert apart._size_of(known) == 8 * (6 * 64 + 2 * masks)
    unknown = replace(observation, batch_size=None, examples=None, local_steps=2)
    assert apart._size_of(unknown) == 8 * 256 * (64 + 2 * masks)


def _product(shape: tuple[int, ...]) -> int:
    return int(torch.tensor(shape).prod())
