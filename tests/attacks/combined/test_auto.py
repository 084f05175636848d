"""The attacker that tries everything, and how it chooses."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from fedsim.core import best_step, registry, seeding, time_budget
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Attack, CostEstimate
from fedsim.core.types import Batch, Observation, OnStep, Reconstruction, Step, Truth
from fedsim.metrics.image import score_items
from fedsim.metrics.text import score_sentences
from fedsim.scenario.world import World
from tests.attacks.written import WRITTEN
from tests.federating import watched

SLOW = ("copa",)  # a minute a walk through LeNet
UNKNOWN_LABELS = ("batch-size", "dropout-rates", "input-statistics")


def auto(**settings: Any) -> Attack[Any]:
    method = registry.get("attack", "auto")
    return method.make(method.config.model_validate({"max_iterations": 30, "mask_iterations": 20, **settings}))


def attacked(observation: Observation, **settings: Any) -> Reconstruction:
    return auto(**settings)(observation, seeding.generator(1, "attack"))


def psnr(guess: Reconstruction, truth: Truth, world: World) -> list[float]:
    return [item.values["psnr"] for item in score_items(guess, truth.batches[0], world.data.dataset.spec).items]


def all_but(*names: str) -> tuple[str, ...]:
    return tuple(name for name in registry.methods("attack", Attack) if name not in names)


def test_one_image_is_solved_and_the_notes_say_by_what() -> None:
    model = {"name": "mlp", "width": 48, "depth": 2, "dropout": 0.25}
    observation, truth, world = watched(model=model, knows=UNKNOWN_LABELS)
    guess = attacked(observation)
    assert min(psnr(guess, truth, world)) > 80
    assert guess.notes[0] == "won: closed-form-linear, which explains the gradient exactly"
    assert torch.equal(guess.labels, truth.batches[0].labels)
    assert guess.is_exact


def test_a_batch_is_separated_and_the_notes_say_why_others_did_not_apply() -> None:
    observation, truth, world = watched(
        model={"name": "mlp", "width": 256, "depth": 2, "dropout": 0.5}, federation={"batch_size": 3}
    )
    guess = attacked(observation)
    assert min(psnr(guess, truth, world)) > 60
    text = " | ".join(guess.notes)
    assert "won: sparse-dictionary" in text
    assert "closed-form-linear does not apply: the update mixes 3 examples" in text
    assert "closed-form-vit does not apply" in text
    assert guess.diagnostics["rank of 1.weight"] == 3


def test_convolutions_with_smooth_activations_are_solved_before_anything_descends() -> None:
    model = {"name": "benchmarks._frontier_models:lenet", "dropout": 0.5}
    observation, truth, world = watched(model=model, knows=UNKNOWN_LABELS)
    for left_out, winner in (((), "r-gap"), (("r-gap", "copa"), "gauss-newton")):
        guess = attacked(observation, leave_out=left_out)
        assert guess.notes[0] == f"won: {winner}, which explains the gradient exactly"
        assert min(psnr(guess, truth, world)) > 80


def test_without_an_exact_answer_the_lowest_distance_wins() -> None:
    observation, _, _ = watched(model={"name": "lenet", "dropout": 0.0}, data={"name": "digits", "size": 32})
    others = all_but("inverting-gradients", "gradinversion", "map-estimate", "tag")
    guess = attacked(observation, max_iterations=4, mask_iterations=2, leave_out=others)
    scores = dict(note.split(": distance ") for note in guess.notes if ": distance " in note)
    winner = guess.notes[0].removeprefix("won: ").partition(",")[0]
    assert len(scores) > 1
    assert float(scores[winner]) == min(map(float, scores.values()))
    assert guess.objective <= float(scores[winner]) * 1.01


def test_attacks_may_be_left_out_and_nothing_left_is_a_reason() -> None:
    observation, _, _ = watched()
    everything = all_but("closed-form-vit", "auto")
    with pytest.raises(NotApplicable, match="closed-form-vit does not apply: no layer projects patches"):
        attacked(observation, leave_out=everything)


def test_where_all_that_ran_found_nothing_it_returns_nothing() -> None:
    observation, _, _ = watched(federation={"batch_size": 4})
    others = all_but("sparse-dictionary", "closed-form-vit")
    nothing = attacked(observation, leave_out=others)
    assert nothing.inputs.shape == (0, *observation.spec.shape)
    assert nothing.stop_reason == "no attack that applies found anything"
    assert any(note.startswith("sparse-dictionary found nothing: gave up: 0 of 4") for note in nothing.notes)
    assert any(note.startswith("closed-form-vit does not apply") for note in nothing.notes)


def test_of_a_text_the_exact_sentences_win() -> None:
    observation, truth, world = watched(**WRITTEN, knows=UNKNOWN_LABELS, federation={"batch_size": 1})
    guess = attacked(observation, leave_out=("dager",))
    assert score_sentences(guess, truth.original_batches[0], world.data.dataset.tokenizer).sentences[0].values["exact"]
    assert guess.notes[0] == "won: subspace-distance, which explains the gradient exactly"


def test_whoever_watches_may_stop_the_search() -> None:
    observation, _, _ = watched()

    def enough(_step: object) -> None:
        raise TimeoutError("enough")

    with pytest.raises(TimeoutError, match="enough"):
        auto()(observation, seeding.generator(1, "attack"), enough)


@pytest.mark.parametrize("moment", ["outlook", "not_applicable", "search"])
def test_an_attack_that_breaks_does_not_hide_what_others_find(monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    own = registry.get("attack", "gradinversion").make
    monkeypatch.setattr(own, "not_applicable", lambda *_: None)
    monkeypatch.setattr(own, "accepts_initial_guess", True)
    monkeypatch.setattr(own, moment, broken)
    observation, _, _ = watched()
    others = all_but("gradinversion", "inverting-gradients")
    guess = attacked(observation, max_iterations=3, mask_iterations=3, leave_out=others)
    assert len(guess.inputs) == 1
    assert any("failed: ZeroDivisionError: a bug" in note for note in guess.notes if note.startswith("gradinversion"))


def found(batch: Batch, examples: list[int], *, noise: float = 0.0) -> Reconstruction:
    """What an attack found of a batch, blurred by noise."""
    blur = noise * torch.randn(batch.inputs.shape, generator=torch.Generator().manual_seed(3))
    return Reconstruction.of(
        (batch.inputs + blur)[examples], batch.labels[examples], objective=0.5, stop_reason="in part"
    )


def returning(monkeypatch: pytest.MonkeyPatch, **guesses: Reconstruction) -> tuple[str, ...]:
    """Let attacks that descend return these guesses, and return the names of all others, to leave them out."""
    for name, guess in guesses.items():
        own = registry.get("attack", name.replace("_", "-")).make
        monkeypatch.setattr(own, "not_applicable", lambda *_args: None)
        monkeypatch.setattr(own, "search", lambda *_args, guess=guess: guess)
    return tuple(name for name in registry.methods("attack", Attack) if name.replace("-", "_") not in guesses)


@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_parts_of_a_batch_that_two_attacks_found_are_put_together(monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    observation, truth, _ = watched(federation={"batch_size": 4}, model={"name": "mlp", "width": 32, "dropout": rate})
    batch = truth.batches[0]
    others = returning(
        monkeypatch, inverting_gradients=found(batch, [2, 0]), gradinversion=found(batch, [3, 0, 1]),
    )  # fmt: skip
    guess = attacked(observation, leave_out=others, mask_iterations=20)
    won = guess.notes[0].removeprefix("won: ").partition(",")[0]  # two that tie come in either order
    assert sorted(won.split(" and ")) == ["gradinversion", "inverting-gradients"]
    order = torch.cdist(guess.inputs.flatten(1), batch.inputs.flatten(1)).argmin(1)
    assert sorted(order.tolist()) == [0, 1, 2, 3]
    assert torch.equal(guess.labels, batch.labels[order])


def test_the_sharper_of_two_guesses_of_an_example_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    observation, truth, _ = watched(federation={"batch_size": 4}, model={"name": "mlp", "width": 32, "dropout": 0.0})
    batch = truth.batches[0]
    blurred, sharp = found(batch, [0, 1, 2, 3], noise=0.3), found(batch, [1, 2])
    mixed = replace(blurred, inputs=torch.cat([batch.inputs[:1], blurred.inputs[1:]]))
    others = returning(monkeypatch, inverting_gradients=mixed, gradinversion=sharp)
    guess = attacked(observation, leave_out=others, mask_iterations=1)
    assert " and " in guess.notes[0].partition(",")[0]
    errors = (guess.inputs[:, None] - batch.inputs[None]).flatten(2).norm(dim=2).min(0).values
    assert float(errors[:3].max()) < 1e-1
    assert float(errors[3]) > 1.0


def test_examples_that_do_not_lower_the_distance_stay_out(monkeypatch: pytest.MonkeyPatch) -> None:
    observation, truth, _ = watched(federation={"batch_size": 4}, model={"name": "mlp", "width": 32, "dropout": 0.0})
    batch = truth.batches[0]
    wrong = replace(found(batch, [0, 1, 2, 3]), inputs=-3.0 * batch.inputs)
    others = returning(monkeypatch, inverting_gradients=found(batch, [0, 1, 3]), gradinversion=wrong)
    guess = attacked(observation, leave_out=others, mask_iterations=1)
    assert guess.notes[0].startswith("won: inverting-gradients,")
    assert len(guess.inputs) == 3


@pytest.mark.parametrize(("noise", "is_refined"), [(0.0, False), (0.3, True)])
def test_refining_is_kept_only_where_it_explains_the_gradient_better(
    monkeypatch: pytest.MonkeyPatch, noise: float, is_refined: bool
) -> None:
    observation, truth, _ = watched(model={"name": "mlp", "width": 32, "dropout": 0.0})
    others = returning(monkeypatch, inverting_gradients=found(truth.batches[0], [0], noise=noise))
    guess = attacked(observation, leave_out=others, mask_iterations=5)
    start = found(truth.batches[0], [0], noise=noise).inputs
    assert torch.equal(guess.inputs, start) is not is_refined
    assert guess.notes[0].endswith("not refined: refining did not explain the gradient better") is not is_refined


def test_what_an_attack_expects_puts_it_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    model = {"name": "mlp", "width": 256, "depth": 2, "dropout": 0.5}
    observation, _, _ = watched(model=model, federation={"batch_size": 2})
    sooner = registry.get("attack", "spear").make
    monkeypatch.setattr(sooner, "outlook", lambda *_args: CostEstimate(0.01, 0.9, ""))
    assert "won: spear" in attacked(observation).notes[0]
    monkeypatch.setattr(sooner, "outlook", lambda *_args: CostEstimate(0.01, 0.0, ""))
    assert "won: sparse-dictionary" in attacked(observation).notes[0]


def test_a_baseline_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    observation, truth, _ = watched(model={"name": "mlp", "width": 32, "dropout": 0.0})
    baseline = registry.get("attack", "cpl").make
    monkeypatch.setattr(baseline, "search", lambda *_args: pytest.fail("a baseline ran"))
    others = returning(monkeypatch, inverting_gradients=found(truth.batches[0], [0], noise=0.3))
    guess = attacked(observation, leave_out=tuple(set(others) - {"cpl"}), mask_iterations=1)
    assert guess.notes[0].startswith("won: inverting-gradients")


def test_an_attack_goes_on_from_what_others_found(monkeypatch: pytest.MonkeyPatch) -> None:
    observation, truth, _ = watched(federation={"batch_size": 4}, model={"name": "mlp", "width": 32, "dropout": 0.0})
    batch = truth.batches[0]
    others = returning(monkeypatch, inverting_gradients=found(batch, [0, 1]), gradinversion=found(batch, [2]))
    later = registry.get("attack", "gradinversion").make
    monkeypatch.setattr(later, "accepts_initial_guess", True)
    whole = replace(found(batch, [0, 1, 2, 3]), is_exact=True)
    seen: list[Reconstruction] = []
    monkeypatch.setattr(later, "search_from", lambda _self, _observation, guess, *_args: (seen.append(guess), whole)[1])
    guess = attacked(observation, leave_out=others)
    assert guess.notes[0] == "won: gradinversion from inverting-gradients, which explains the gradient exactly"
    assert [len(one.inputs) for one in seen] == [2]


def test_what_an_attack_reaches_from_a_guess_before_its_time_ends_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    observation, truth, _ = watched(model={"name": "mlp", "width": 32, "dropout": 0.0})
    batch = truth.batches[0]
    others = returning(monkeypatch, inverting_gradients=found(batch, [0], noise=0.3))
    later = registry.get("attack", "gauss-newton").make
    monkeypatch.setattr(later, "not_applicable", lambda *_: None)
    monkeypatch.setattr(later, "search", lambda *_: best_step.guess_from_step(observation, None))

    def end(_self: object, _observation: object, _guess: object, _generator: object, on_step: OnStep) -> None:
        on_step(Step(0, 1, 2, 0.1, 0.1, batch.inputs))
        raise time_budget.DeadlineReached

    monkeypatch.setattr(later, "search_from", end)
    guess = attacked(observation, leave_out=tuple(name for name in others if name != "gauss-newton"))
    assert guess.notes[0].startswith("won: gauss-newton from inverting-gradients")
    assert torch.equal(guess.inputs, batch.inputs)
    assert torch.equal(guess.labels, batch.labels)


def test_what_descends_last_is_a_start_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack that goes on ran before the descents, and found nothing by itself."""
    observation, truth, world = watched(model={"name": "benchmarks._frontier_models:lenet"}, knows=UNKNOWN_LABELS)
    others = returning(monkeypatch, inverting_gradients=found(truth.batches[0], [0], noise=0.2))
    second_order = registry.get("attack", "gauss-newton").make
    nothing = Reconstruction.of(torch.zeros(0, *observation.spec.shape), stop_reason="found nothing")
    monkeypatch.setattr(second_order, "search", lambda *_args: nothing)
    guess = attacked(observation, leave_out=tuple(name for name in others if name != "gauss-newton"))
    assert guess.notes[0] == "won: gauss-newton from inverting-gradients, which explains the gradient exactly"
    assert min(psnr(guess, truth, world)) > 80


def test_time_is_shared_by_attacks_and_the_notes_say_what_it_ended() -> None:
    observation, truth, _ = watched(model={"name": "lenet", "dropout": 0.0}, data={"name": "digits", "size": 32})
    attack = auto(max_iterations=100_000, leave_out=(*SLOW, "gauss-newton"))
    guess = attack(observation, seeding.generator(1, "attack"), seconds=0.6)
    assert len(guess.inputs) == len(truth.batches[0])
    assert any("was ended by its share of the time" in note for note in guess.notes)
    late = attack(observation, seeding.generator(1, "attack"), seconds=1e-9)
    assert len(late.inputs) == 0
    assert any("was left out: no time was left" in note for note in late.notes)


def test_each_descent_gets_half_of_what_is_left_and_shares_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 seconds 70 are for searches; every attack uses up its share."""
    observation, _, _ = watched(federation={"batch_size": 4})
    now, shares = [0.0], dict[str, float]()
    monkeypatch.setattr(time_budget, "processor_seconds", lambda **_: now[0])

    def use_up(name: str) -> Reconstruction:
        shares[name] = time_budget.seconds_left()
        now[0] += shares[name]
        return Reconstruction.of(torch.zeros(0, *observation.spec.shape), stop_reason="found nothing")

    names = ("copa", "gauss-newton", "inverting-gradients", "dropout-inversion", "gradinversion")
    for name in names:
        kind = registry.get("attack", name).make
        monkeypatch.setattr(kind, "not_applicable", lambda *_: None)
        monkeypatch.setattr(kind, "search", lambda *_, name=name: use_up(name))
    others = all_but(*names)
    auto(leave_out=others)(observation, seeding.generator(1, "attack"), seconds=100.0)
    expected = {
        "copa": 14.0,
        "gauss-newton": 14.0,
        "dropout-inversion": 21.0,
        "gradinversion": 10.5,
        "inverting-gradients": 10.5,
    }
    assert shares == pytest.approx(expected)
    assert list(shares) == list(expected)
    assert sum(shares.values()) == pytest.approx(70.0)


def test_without_dropout_the_search_that_ignores_it_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    observation, truth, _ = watched(model={"name": "mlp", "width": 32, "dropout": 0.0})
    guesses = {name: found(truth.batches[0], [0], noise=0.3) for name in ("inverting_gradients", "dropout_inversion")}
    others = returning(monkeypatch, **guesses)
    guess = attacked(observation, leave_out=others, mask_iterations=1)
    assert "dropout-inversion runs the same search as inverting-gradients on this update" in guess.notes
    alone = attacked(observation, leave_out=(*others, "inverting-gradients"), mask_iterations=1)
    assert alone.notes[0].startswith("won: dropout-inversion")


def test_where_noise_hides_the_gradient_it_says_so_and_nothing_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    tables: dict[str, Any] = {"knows": (*UNKNOWN_LABELS, "defenses"), "federation": {"batch_size": 4}}
    observation, truth, _ = watched(**tables, defenses=[{"name": "gradient-noise", "scale": 10.0}])
    returning(monkeypatch, inverting_gradients=found(truth.batches[0], [0]))
    guess = attacked(observation)
    assert not len(guess.inputs)
    assert guess.stop_reason.startswith("no search was tried: the noise hides the gradient")
    clearer, _, _ = watched(**tables, defenses=[{"name": "gradient-noise", "scale": 1e-4}])
    others = all_but("inverting-gradients")
    assert len(attacked(clearer, leave_out=others, mask_iterations=1).inputs) == 1


def test_inputs_that_equations_of_their_own_prove_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    observation, truth, _ = watched(federation={"batch_size": 4}, model={"name": "mlp", "width": 32, "dropout": 0.0})
    proven = replace(found(truth.batches[0], [0, 1, 2, 3]), has_exact_inputs=True)
    others = returning(monkeypatch, inverting_gradients=proven, gradinversion=found(truth.batches[0], [2]))
    guess = attacked(observation, leave_out=tuple(name for name in others if name != "gradinversion"))
    assert guess.notes[0].endswith("its equations hold only for these inputs; labels and masks are not proven")


def test_whether_later_attacks_fit_is_not_asked_behind_an_exact_one_without_a_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    observation, _, _ = watched(knows=UNKNOWN_LABELS)
    later = registry.get("attack", "inverting-gradients").make
    observations: list[Observation] = []
    monkeypatch.setattr(later, "not_applicable", lambda _self, one: observations.append(one))
    attack = auto()
    assert "closed-form-linear" in attack(observation, seeding.generator(1, "attack")).notes[0]
    assert not observations
    attack(observation, seeding.generator(1, "attack"), seconds=60.0)
    assert observations  # shares depend on how many there are
