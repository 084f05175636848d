"""The search itself: rows of one computation, on bowls whose lowest points are known, and beside torch's optimizers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import LBFGS, SGD

from attacks.core.matching.descent import Descent, DescentSettings, RestartResult, Search, VictimGroup, descend
from attacks.core.matching.unknown_masks import OptimisedMasks
from attacks.core.matching.unknowns import LABELS, Logits, Unknowns
from fedsim.core import registry, seeding
from fedsim.core.time_budget import OUT_OF_TIME, DeadlineReached
from fedsim.core.types import DropoutSite, Step
from tests.attacks.core.matching.bowls import Bowls, Distances
from tests.attacks.core.matching.measures import squared
from tests.federating import watched

SETTINGS = DescentSettings(iterations=50, rate=0.1, patience=10, stall=10_000)


def normal(_victim: int, generator: torch.Generator) -> Tensor:
    return torch.randn((1, 1, 3, 3), generator=generator)


def found(
    bowls: Bowls,
    settings: DescentSettings,
    starts: int = 1,
    search: Search | None = None,
    box: tuple[Tensor, Tensor] | None = None,
    on_step: Callable[[Step], None] = lambda _s: None,
) -> list[RestartResult]:
    victims = len(bowls.targets)
    group = VictimGroup(
        [],
        [torch.zeros(1, dtype=torch.long)] * victims,
        [seeding.generator(victim, "attack") for victim in range(victims)],
        [on_step] * victims,
    )
    search = search or Search(Unknowns(), normal, squared)
    return descend(Descent(bowls, search, group, settings, box, starts))


def bowls(victims: int = 1) -> Bowls:
    return Bowls(torch.randn((victims, 1, 1, 3, 3), generator=torch.Generator().manual_seed(5)))


def test_every_row_finds_its_own_victims_lowest_point() -> None:
    where = bowls(3)
    rows = found(where, SETTINGS._replace(iterations=400), starts=2)
    assert [(row.victim, row.start) for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    for row in rows:
        assert torch.allclose(row.inputs, where.targets[row.victim], atol=0.02)


def test_each_row_keeps_its_recorded_minimum() -> None:
    where = bowls(2)
    for row in found(where, SETTINGS._replace(rate=2.0), starts=2):
        assert row.objective == min(row.objectives)
        assert row.iteration == 1 + row.objectives.index(row.objective)
        again = (row.inputs - where.targets[row.victim]).square().sum().item()
        assert again == pytest.approx(row.objective, rel=1e-5)


def test_rows_leave_when_they_have_ended_and_the_others_go_on_as_before() -> None:
    where = bowls(2)
    where.targets[0] = normal(0, seeding.generator(0, "attack"))
    rows = found(where, SETTINGS._replace(threshold=1e-3, iterations=300))
    assert [row.stop_reason for row in rows] == ["objective below threshold"] * 2
    assert len(rows[0].objectives) == 1
    assert where.rows == [2] + [1] * (len(rows[1].objectives) - 1)
    both = Bowls(where.targets[[1, 1]])
    assert found(both, SETTINGS._replace(threshold=1e-3, iterations=300))[1].objectives == pytest.approx(
        rows[1].objectives, rel=1e-5
    )


def test_a_row_that_is_not_a_number_ends_and_its_neighbour_does_not() -> None:
    where = bowls(2)
    where.targets[0] = torch.nan
    rows = found(where, SETTINGS)
    assert rows[0].stop_reason == "objective is not a number"
    assert rows[0].iteration == 0
    assert rows[1].stop_reason == "iterations used up"
    assert len(rows[1].objectives) == 50


def test_rows_that_stand_still_end() -> None:
    rows = found(bowls(2), SETTINGS._replace(iterations=3000, still=1e-3))
    assert {row.stop_reason for row in rows} == {"inputs stand still"}
    assert {len(row.objectives) % 100 for row in rows} == {0}
    never = found(bowls(2), SETTINGS._replace(iterations=300, still=0.0))
    assert {row.stop_reason for row in never} == {"iterations used up"}


def test_a_row_without_a_new_best_ends() -> None:
    rows = found(bowls(), SETTINGS._replace(rate=100.0, stall=3))
    assert rows[0].stop_reason == "no improvement"
    assert len(rows[0].objectives) == rows[0].iteration + 3


def test_the_leading_row_of_a_victim_is_reported() -> None:
    steps: list[Step] = []
    rows = found(bowls(), SETTINGS._replace(iterations=30), starts=4, on_step=steps.append)
    assert [step.iteration for step in steps] == list(range(1, 31))
    for step in steps:
        now = [row.objectives[step.iteration - 1] for row in rows]
        assert step.objective == min(now)
        assert step.restart == now.index(min(now))
        assert step.best == min(min(row.objectives[: step.iteration]) for row in rows)


@pytest.mark.paper_step("gradinversion", "Langevin noise")
def test_langevin_noise_has_the_stated_size() -> None:
    """With gradients of zero and one step, Adam moves against the sign of the noise; without noise it stays."""
    flat = Search(Unknowns(), normal, lambda g: 0.0 * g.difference().sum(1))
    seen: list[Tensor] = []
    for noise in (0.0, 0.5):
        settings = SETTINGS._replace(iterations=2, langevin=noise)
        found(bowls(), settings, search=flat, on_step=lambda s: seen.append(s.guess.clone()))
    generator = seeding.generator(0, "attack")
    start = normal(0, generator)
    noise = torch.randn(start.shape, generator=generator)
    assert torch.equal(seen[0], start)
    assert torch.equal(seen[1], start)
    assert torch.allclose(seen[3], start - 0.1 * noise.sign(), atol=1e-4)


def test_masks_descend_with_their_own_step_and_stay_in_their_range() -> None:
    site = DropoutSite(0, "site", 0.5, (1, 9))
    masks = Unknowns((OptimisedMasks(sites=(site,), begin="mean"),))
    still = found(bowls(), SETTINGS, search=Search(masks.with_rate(0.0), normal, squared))[0]
    assert torch.equal(still.masks[0], torch.full((1, 9), 0.5))
    search = Search(masks.with_rate(0.5), normal, squared)
    moved = found(bowls(), SETTINGS._replace(rate=0.0, iterations=200), search=search)[0]
    assert torch.equal(moved.inputs, normal(0, seeding.generator(0, "attack")))
    assert float(moved.masks[0].min()) == 0.0
    assert float(moved.masks[0].max()) <= 1.0


@pytest.mark.parametrize("sign", ["hard", pytest.param("off", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["inverting-gradients", "ig-train", "ig-mc", "wiig", "dropout-inversion"])
def test_victims_together_find_what_each_finds_alone(name: str, sign: str) -> None:
    knows = ("labels", "masks", "batch-size", "dropout-rates", "input-statistics")
    observations = [watched(client=client, knows=knows)[0] for client in range(2)]
    method = registry.get("attack", name)
    attack = method.make(method.config.model_validate({"max_iterations": 15, "sign": sign, "restarts": 2}))
    own = [seeding.generator(client, "attack") for client in range(2)]
    together = attack.together(observations, own, [lambda _s: None] * 2)
    for client, observation in enumerate(observations):
        alone = attack(observation, seeding.generator(client, "attack"))
        assert alone.best_iteration == together[client].best_iteration
        assert torch.allclose(alone.inputs, together[client].inputs, atol=1e-4)
        assert alone.objective == pytest.approx(together[client].objective, abs=1e-4)


def test_victims_of_other_shapes_follow_in_a_computation_of_their_own() -> None:
    one, _, _ = watched()
    two, _, _ = watched(federation={"batch_size": 2})
    method = registry.get("attack", "dropout-inversion")
    attack = method.make(method.config.model_validate({"max_iterations": 5}))
    own = [seeding.generator(client, "attack") for client in range(3)]
    guesses = attack.together([one, two, one], own, [lambda _s: None] * 3)
    assert [len(guess.inputs) for guess in guesses] == [1, 2, 1]


def by_lbfgs(inner: int = 4) -> DescentSettings:
    return SETTINGS._replace(
        optimizer=lambda variables: LBFGS(variables, lr=0.3, max_iter=inner, tolerance_grad=0.0, tolerance_change=0.0)
    )


def test_an_optimizer_that_evaluates_by_itself_has_the_lowest_objective_of_each_iteration_on_record() -> None:
    where, told = bowls(), list[Step]()
    (row,) = found(where, by_lbfgs()._replace(iterations=6), on_step=told.append)
    assert len(where.rows) > 12
    assert len(row.objectives) == 6
    assert row.objectives == sorted(row.objectives, reverse=True)
    assert [(step.iteration, step.iterations, step.objective) for step in told] == [
        (iteration, 6, objective) for iteration, objective in enumerate(row.objectives, 1)
    ]
    assert (row.objective, row.iteration) == (row.objectives[-1], 6)
    assert row.objective == pytest.approx((row.inputs - where.targets[0]).square().sum().item(), rel=1e-5)


def test_the_optimizer_gets_the_gradients_of_inputs_and_unknowns() -> None:
    where, site = bowls(), DropoutSite(0, "site", 0.5, (1, 1, 3, 3))
    masks = Unknowns((OptimisedMasks(sites=(site,), begin="mean", relaxation="sigmoid"),))
    (row,) = found(where, by_lbfgs(), search=Search(masks, normal, squared))
    first = normal(0, seeding.generator(0, "attack"))
    assert row.objective < 1e-6
    assert not torch.equal(row.inputs, first)
    assert not torch.equal(row.masks[0], torch.full((1, 1, 3, 3), 0.5))


def test_the_distance_of_a_row_leaves_the_prior_out() -> None:
    where = bowls()
    search = Search(Unknowns(), normal, squared, lambda inputs, _masks, _rows: inputs.flatten(1).square().sum(1))
    for settings in (SETTINGS, by_lbfgs()):
        (row,) = found(where, settings, search=search)
        assert row.distance == pytest.approx((row.inputs - where.targets[0]).square().sum().item(), rel=1e-5)
        assert row.objective == pytest.approx(row.distance + row.inputs.square().sum().item(), rel=1e-5)


@pytest.mark.parametrize(("improvement", "iterations"), [(0.0, 40), (0.6, 40), (0.7, 4), (0.9, 4)])
def test_a_stall_counts_improvements_of_a_relative_size(improvement: float, iterations: int) -> None:
    where = Falls(torch.zeros(1, 1, 1, 3, 3))
    settings = SETTINGS._replace(iterations=40, stall=3, improvement=improvement)
    (row,) = found(
        where, settings, search=Search(Unknowns(), normal, lambda gradients: gradients.squared_norms().sum(1))
    )
    assert len(row.objectives) == iterations
    assert row.stop_reason == ("no improvement" if iterations < 40 else "iterations used up")


class Falls(Bowls):
    """Objectives 1, 0.7, 0.49, ..."""

    def gradients(self, inputs: Tensor, *others: Any) -> Distances:
        self.rows.append(len(inputs))
        objective = 0.7 ** (len(self.rows) - 1)
        return Distances(0.0 * inputs.flatten(1) + (objective / 9) ** 0.5, self.targets[[0]].flatten(1))


def test_searched_labels_are_compared_as_probabilities() -> None:
    class Told(Bowls):
        labels: list[Tensor]

        def gradients(self, inputs: Tensor, masks: Any, labels: Tensor, *others: Any) -> Distances:
            self.labels.append(labels.detach().clone())
            return super().gradients(inputs + 0.0 * labels.sum(), masks, labels, *others)

    where = Told(bowls().targets)
    where.labels = []
    logits = torch.tensor([[1.0, 2.0, 4.0]])
    search = Search(Unknowns((Logits(LABELS, shape=(1, 3), start=(logits,)),)), normal, squared)
    (row,) = found(where, by_lbfgs()._replace(iterations=1), search=search)
    assert torch.allclose(where.labels[0], logits.softmax(1)[None])
    assert torch.equal(row.extra_values[LABELS][0], logits)


def test_at_the_deadline_the_best_of_an_optimizer_that_evaluates_by_itself_is_kept() -> None:
    def over(step: Step) -> None:
        if step.iteration == 2:
            raise DeadlineReached

    where = bowls()
    (row,) = found(where, by_lbfgs(), on_step=over)
    assert (row.stop_reason, len(row.objectives)) == (OUT_OF_TIME, 2)
    assert row.objective == pytest.approx((row.inputs - where.targets[0]).square().sum().item(), rel=1e-5)


class Worsening(SGD):
    """Evaluates, moves far away, and evaluates again."""

    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        closure()
        with torch.no_grad():
            self.param_groups[0]["params"][0].add_(10.0)
        closure()


def test_of_several_evaluations_in_an_iteration_the_lowest_counts() -> None:
    where = bowls()
    (row,) = found(where, SETTINGS._replace(iterations=2, optimizer=Worsening))
    first = normal(0, seeding.generator(0, "attack"))
    assert torch.equal(row.inputs, first)
    assert row.objectives == [
        pytest.approx((first + moved - where.targets[0]).square().sum().item(), rel=1e-5) for moved in (0.0, 10.0)
    ]
    assert row.iteration == 1
