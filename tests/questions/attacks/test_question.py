"""An attack that fails, or guesses what nobody expected, ends alone; what is right is scored."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fedsim.cli import templates
from fedsim.core.types import Reconstruction, Update, WireEntry
from fedsim.questions.attacks import question as asking
from fedsim.record import RunRecord, VictimRecord
from fedsim.record.store import RunFolder
from fedsim.report import writing
from tests.experiment.running import SHORT, Build, run

UNKNOWN_SIZE = {
    "federation": {"clients": 2, "batch_size": 3},
    "threat": {"knows": ("labels",)},
    "model": {"dropout": 0.25},
}


def test_an_attack_that_fails_is_recorded_and_the_others_go_on(
    scenario: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug in the attack")

    monkeypatch.setattr("attacks.gradient_matching.inverting_gradients.InvertingGradients.search_batch", broken)
    arm = run(scenario(**SHORT), tmp_path / "run").arms[1]
    for victim in arm.attacks[0].victims:
        assert victim.failure.startswith("ZeroDivisionError: a bug in the attack (test_question.py, line")
    assert [victim.failure for victim in arm.attacks[1].victims] == [None, None]
    assert arm.attacks[0].value is None
    assert arm.attacks[1].value is not None


def attacks_of(record: RunRecord) -> dict[str, VictimRecord]:
    return {attack.label: attack.victims[0] for attack in record.arms[0].attacks}


def test_a_guess_of_another_size_is_scored_and_later_attacks_go_on(
    scenario: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_methods: None
) -> None:
    (tmp_path / "fedsim").mkdir()
    spec = spec_from_file_location("grey", templates.write_new("attack", "grey", tmp_path)[0])
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "grey", module)
    spec.loader.exec_module(module)
    names = ("grey", "inverting-gradients", "closed-form-linear", "dropout-inversion")
    iterations = [{}, {"max_iterations": 8}, {}, {"max_iterations": 8}]
    attacks = [{"name": name, **few} for name, few in zip(names, iterations, strict=True)]
    found = attacks_of(run(scenario(**UNKNOWN_SIZE, attacks=attacks), tmp_path / "run"))
    assert set(found) == set(names)
    for victim in found.values():
        assert victim.failure is None
        assert [item.is_missing for item in victim.scores].count(True) == 2
        assert "it guessed 1 of 3 examples; examples without a guess count as missing" in victim.notes[-1]
    assert writing.build(tmp_path / "run").read_text().count("no guess") == 2 * len(names)


def test_a_guess_that_cannot_be_scored_is_its_attacks_failure(
    scenario: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nonsense(_self: object, seen: Sequence[Any], *_: object) -> list[Reconstruction]:
        flat = torch.zeros(1, 3)
        return [Reconstruction(flat, flat[0], None, 0.0, 1, 1, (), "done") for _ in seen]

    def none(_self: object, seen: Sequence[Any], *_: object) -> list[Reconstruction]:
        return [replace(nonsense(None, [None])[0], inputs="nothing")] * len(seen)  # type: ignore[arg-type]

    monkeypatch.setattr("attacks.gradient_matching.inverting_gradients.InvertingGradients.search_batch", nonsense)
    monkeypatch.setattr("attacks.gradient_matching.dlg.Dlg.search_batch", none)
    attacks = [{"name": name} for name in ("inverting-gradients", "dlg", "closed-form-linear")]
    found = attacks_of(run(scenario(**{**UNKNOWN_SIZE, "threat": {}}, attacks=attacks), tmp_path / "run"))
    assert "its guess cannot be scored: the attack returned examples of shape (3,)" in str(
        found["inverting-gradients"].failure
    )
    assert "its guess cannot be scored: " in str(found["dlg"].failure)
    assert "closed-form-linear" in found


def test_an_attack_that_does_not_apply_says_why(scenario: Build, tmp_path: Path) -> None:
    built = scenario(
        federation={"algorithm": "fedavg", "local_steps": 2, "clients": 2},
        attacks=[{"name": "dropout-inversion", "max_iterations": 5}],
    )
    (victim,) = run(built, tmp_path / "run").arms[0].attacks[0].victims
    assert "2 local steps" in victim.failure


def test_every_distinct_example_of_several_passes_is_scored_once(scenario: Build, tmp_path: Path) -> None:
    built = scenario(
        partition={"scheme": "resampled", "examples_per_client": 5},
        federation={"algorithm": "fedavg", "local_epochs": 2, "batch_size": 2, "clients": 2},
        attacks=[{"name": "fedavg-inversion", "max_iterations": 4}, {"name": "sme", "max_iterations": 4}],
    )
    record = run(built, tmp_path / "run")
    stored = RunFolder(tmp_path / "run").read_arrays()
    for attack in record.arms[0].attacks:
        (victim,) = attack.victims
        assert len(victim.scores) == 5
        assert sorted(item.label for item in victim.scores) == sorted(item.guessed_label for item in victim.scores)
        assert victim.masks == ()
        assert victim.objective_at_truth is None
        originals = stored[f"{victim.arrays}/originals"]
        assert len({image.tobytes() for image in originals}) == len(originals) == 5
    assert writing.build(tmp_path / "run").is_file()


@pytest.mark.parametrize(
    ("rate", "names"),
    [
        (0.0, ("inverting-gradients", "ig-train", "ig-mc", "wiig", "dropout-inversion")),
        (0.25, ("ig-train", "ig-mc")),
    ],
)
def test_attacks_that_are_one_search_give_one_guess(
    scenario: Build, tmp_path: Path, rate: float, names: tuple[str, ...]
) -> None:
    """Starts are paired: without dropout five attacks are one, and ig-mc of one draw is ig-train."""
    attacks = [{"name": name, "label": name, "max_iterations": 8, "restarts": 2} for name in names]
    attacks[names.index("ig-mc")] |= {"draws": 1}
    attacks.append({"name": "inverting-gradients", "label": "longer", "max_iterations": 9, "restarts": 2})
    knows = ("labels", "batch-size", "dropout-rates", "masks")
    built = scenario(model={"dropout": rate}, threat={"knows": knows}, attacks=attacks)
    victims = attacks_of(run(built, tmp_path / "run"))
    expected, other = victims[names[0]].scores[0].values, victims["longer"].scores[0].values
    assert all(victims[name].scores[0].values == expected for name in names)
    assert other != expected


def test_an_attack_over_rounds_sees_the_same_clients_updates_of_earlier_rounds_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asking, "observe", lambda _victim, _knows, before: before)
    update = Update("gradient", {}, {}, 1, 0.0)
    entries = [WireEntry(number, client, {}, update) for number in (1, 2, 3) for client in (0, 1)]
    victims = [SimpleNamespace(entry=entry) for entry in entries]
    assert asking._observe(victims[4], victims, ()) == [victims[0], victims[2]]  # type: ignore[arg-type]
    assert asking._observe(victims[0], victims, ()) == []  # type: ignore[arg-type]
