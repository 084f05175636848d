"""What experiments measure with: stored victims, and the yardstick beside the engine."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import attack_family
from benchmarks._budget import attack_within
from benchmarks._literal_dia import literal_dia
from benchmarks._programs import engine, prepared_yardstick, store_victims, with_settings, yardstick
from benchmarks._victims import Victim, read, victims_of, write
from benchmarks.exact_frontier import CASES
from benchmarks.patch_dictionary import CASES as BATCHES
from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Attack
from fedsim.core.types import Observation, Reconstruction, Truth, Update
from fedsim.scenario.world import World

Watched = Callable[..., tuple[Observation, Truth, World]]
DIGITS = {"name": "digits", "size": 16}
MLP = {"name": "mlp", "width": 24, "depth": 2, "dropout": 0.25}


def victim() -> Victim:
    (one,) = victims_of(DIGITS, MLP, 1)
    return one


def test_stored_victims_come_back_as_they_were(tmp_path: Path) -> None:
    originals = list(victims_of(DIGITS, MLP, 3))
    write(originals, tmp_path)
    for original, copy in zip(originals[1:], read(tmp_path, MLP, [1, 2]), strict=True):
        seen, again = original.observation, copy.observation
        assert all(torch.equal(tensor, again.update.tensors[name]) for name, tensor in seen.update.tensors.items())
        assert all(
            torch.equal(tensor, again.model.state_dict()[name]) for name, tensor in seen.model.state_dict().items()
        )
        assert torch.equal(copy.batch.inputs, original.batch.inputs)
        assert again.labels is not None
        assert torch.equal(again.labels, original.batch.labels)
        assert (again.sites, again.spec, again.batch_size) == (seen.sites, seen.spec, seen.batch_size)


def in_double(observation: Observation) -> Observation:
    tensors = {name: tensor.double() for name, tensor in observation.update.tensors.items()}
    update = Update("gradient", tensors, {}, observation.update.examples, 0.0)
    return replace(observation, model=observation.model.double(), update=update)


def test_the_yardstick_descends_as_the_engine_does(watched: Watched) -> None:
    observation = in_double(watched()[0])
    values: list[float] = []
    guess = literal_dia(observation, 30, torch.Generator().manual_seed(4), lambda step: values.append(step.objective))
    method = registry.get("attack", "dropout-inversion")
    attack = method.make(method.config.model_validate({"max_iterations": 30, "engine": "general"}))
    ours: Reconstruction = attack(observation, torch.Generator().manual_seed(4))
    assert values == pytest.approx([value for _, value in ours.history], rel=1e-6)
    assert torch.allclose(guess, ours.inputs, atol=1e-6)


@pytest.mark.slow
def test_programs_attack_stored_victims() -> None:
    with store_victims(DIGITS, MLP, 3) as task, engine() as ours, yardstick() as plain, prepared_yardstick() as tuned:
        short = with_settings(task, max_iterations=12)
        runs = [program.ask(short) for program in (ours, plain, tuned)]
        assert [len(run.marks) for run in runs] == [12, 12, 12]
        assert runs[1].psnr == runs[2].psnr == pytest.approx(runs[0].psnr, abs=0.5)
        together = ours.ask(short.model_copy(update={"victim": 1, "together": 2}))
        assert len(together.marks) == 12


@pytest.mark.parametrize("name", registry.methods("attack", Attack))
def test_every_attack_of_the_family_has_a_case_that_its_scenario_takes(name: str) -> None:
    scenario = attack_family.scenario_of(name, attack_family.case_of(name))
    assert [attack.name for attack in scenario.attacks] == [name]
    assert [*scenario.arms] == ["model.dropout"]
    assert [*scenario.arms["model.dropout"]] == attack_family.RATES
    assert scenario.threat.victims == attack_family.VICTIMS


def test_cases_are_of_attacks_that_exist_and_an_attack_without_one_has_the_usual() -> None:
    files = {path.stem for path in attack_family.CASES.glob("*.toml")}
    assert files
    assert files <= {*registry.methods("attack", Attack)}
    assert attack_family.case_of("of somebody else") == attack_family.Case()


@pytest.mark.parametrize("content", ['word = "typo"', 'figure = "pictures"', "words = 3"])
def test_a_file_that_is_no_case_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setattr(attack_family, "CASES", tmp_path)
    (tmp_path / "mine.toml").write_text(content)
    with pytest.raises(FedsimError, match=r"mine.toml is no case of an attack: "):
        attack_family.case_of("mine")


def test_trained_victims_send_the_gradient_of_weights_that_fit_better() -> None:
    (fresh,), (trained,) = (list(victims_of(DIGITS, MLP, 1, batch_size=16, trained=steps)) for steps in (0, 200))
    losses = []
    for victim in (fresh, trained):
        observed, batch = victim.observation, victim.batch
        test = torch.nn.functional.cross_entropy(observed.model.eval()(batch.inputs), batch.labels)
        losses.append(float(test.detach()))
        observed.model.train()
    assert losses[1] < 0.5 * losses[0]
    assert not torch.equal(fresh.observation.update.tensors["1.weight"], trained.observation.update.tensors["1.weight"])


def test_exact_attacks_are_measured_in_every_setting_once() -> None:
    settings = [case.setting for case in (*CASES, *BATCHES)]
    assert len(set(settings)) == len(settings)


def test_an_attack_is_stopped_after_its_budget_and_left_alone_within_it() -> None:
    method = registry.get("attack", "inverting-gradients")
    attack = method.make(method.config.model_validate({"max_iterations": 20}))
    ended, whole = attack_within(0.0, attack, victim(), 0), attack_within(60.0, attack, victim(), 0)
    assert (ended.is_stopped, ended.guess.iterations) == (True, 1)
    assert (whole.is_stopped, whole.guess.iterations) == (False, 20)
    assert whole.worst > ended.worst
