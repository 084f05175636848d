"""The search itself: rows of one computation, on bowls whose lowest points are known, and beside torch's optimizers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import median_filter
from torch import Tensor

from attacks.core.regularizers import median_filtered, pixel_box, total_variation
from attacks.core.starts import first_inputs
from attacks.core.unknown_masks import OptimisedMasks
from attacks.core.unknowns import NOTHING, Unknowns, Values
from attacks.gradient_matching._comparison import squared
from attacks.gradient_matching._engine import Found, Pace, Search, descend
from attacks.gradient_matching._optimizers import Adam, Constant, Cosine, Plateau, Steps, signed
from fedsim.core import registry, seeding
from fedsim.core.types import DropoutSite, InputSpec, Masks, Observation, Step

Watched = Callable[..., tuple[Observation, Any, Any]]
PACE = Pace(iterations=50, rate=0.1, patience=10, stall=10_000)


@dataclass(frozen=True)
class Distances:
    """Figures of rows whose gradient is the dummy itself."""

    rows: Tensor
    targets: Tensor

    def inner(self) -> Tensor:
        return (self.rows * self.targets).sum(1, keepdim=True)

    def squared(self) -> Tensor:
        return self.rows.square().sum(1, keepdim=True)

    def difference(self) -> Tensor:
        return (self.rows - self.targets).square().sum(1, keepdim=True)

    def observed(self) -> Tensor:
        return self.targets.square().sum(1, keepdim=True)


@dataclass
class Bowls:
    """A bowl a victim, and how many rows each call had."""

    targets: Tensor
    name: str = "bowls"
    like: Tensor = field(default_factory=lambda: torch.zeros(1))
    rows: list[int] = field(default_factory=list)

    def gradients(
        self, inputs: Tensor, masks: Masks, labels: Tensor, victims: Sequence[int], others: Values = NOTHING
    ) -> Distances:
        self.rows.append(len(inputs))
        flat = inputs.flatten(1) * (masks[0].flatten(1) if masks else 1.0)
        return Distances(flat, self.targets[list(victims)].flatten(1))


def nothing(inputs: Tensor, _masks: Masks, _victims: Sequence[int]) -> Tensor:
    return inputs.new_zeros(len(inputs))


def normal(_victim: int, generator: torch.Generator) -> Tensor:
    return torch.randn((1, 1, 3, 3), generator=generator)


def found(
    bowls: Bowls,
    pace: Pace,
    starts: int = 1,
    search: Search | None = None,
    box: tuple[Tensor, Tensor] | None = None,
    on_step: Callable[[Step], None] = lambda _s: None,
) -> list[Found]:
    victims = len(bowls.targets)
    return descend(
        bowls,
        search or Search(Unknowns(), normal, nothing, squared),
        [torch.zeros(1, dtype=torch.long)] * victims,
        starts,
        pace,
        box,
        [seeding.generator(victim, "attack") for victim in range(victims)],
        [on_step] * victims,
    )


def bowls(victims: int = 1) -> Bowls:
    return Bowls(torch.randn((victims, 1, 1, 3, 3), generator=torch.Generator().manual_seed(5)))


def test_every_row_finds_its_own_victims_lowest_point() -> None:
    where = bowls(3)
    rows = found(where, PACE._replace(iterations=400), starts=2)
    assert [(row.victim, row.start) for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    for row in rows:
        assert torch.allclose(row.inputs, where.targets[row.victim], atol=0.02)


def test_starts_are_rows_of_one_computation() -> None:
    where = bowls()
    rows = found(where, PACE._replace(iterations=20), starts=5)
    assert where.rows == [5] * 20
    assert len({row.objectives[0] for row in rows}) == 5


def test_each_row_keeps_its_recorded_minimum() -> None:
    where = bowls(2)
    for row in found(where, PACE._replace(rate=2.0), starts=2):
        assert row.objective == min(row.objectives)
        assert row.iteration == 1 + row.objectives.index(row.objective)
        again = (row.inputs - where.targets[row.victim]).square().sum().item()
        assert again == pytest.approx(row.objective, rel=1e-5)


def test_rows_leave_when_they_have_ended_and_the_others_go_on_as_before() -> None:
    where = bowls(2)
    where.targets[0] = normal(0, seeding.generator(0, "attack"))
    rows = found(where, PACE._replace(threshold=1e-3, iterations=300))
    assert [row.stopped for row in rows] == ["objective below threshold"] * 2
    assert len(rows[0].objectives) == 1
    assert where.rows == [2] + [1] * (len(rows[1].objectives) - 1)
    both = Bowls(where.targets[[1, 1]])
    assert found(both, PACE._replace(threshold=1e-3, iterations=300))[1].objectives == pytest.approx(
        rows[1].objectives, rel=1e-5
    )


def test_a_row_that_is_not_a_number_ends_and_its_neighbour_does_not() -> None:
    where = bowls(2)
    where.targets[0] = torch.nan
    rows = found(where, PACE)
    assert rows[0].stopped == "objective is not a number"
    assert rows[0].iteration == 0
    assert rows[1].stopped == "iterations used up"
    assert len(rows[1].objectives) == 50


def test_rows_that_stand_still_end() -> None:
    rows = found(bowls(2), PACE._replace(iterations=3000, still=1e-3))
    assert {row.stopped for row in rows} == {"inputs stand still"}
    assert {len(row.objectives) % 100 for row in rows} == {0}
    never = found(bowls(2), PACE._replace(iterations=300, still=0.0))
    assert {row.stopped for row in never} == {"iterations used up"}


def test_a_row_without_a_new_best_ends() -> None:
    rows = found(bowls(), PACE._replace(rate=100.0, stall=3))
    assert rows[0].stopped == "no improvement"
    assert len(rows[0].objectives) == rows[0].iteration + 3


def test_the_leading_row_of_a_victim_is_reported() -> None:
    steps: list[Step] = []
    rows = found(bowls(), PACE._replace(iterations=30), starts=4, on_step=steps.append)
    assert [step.iteration for step in steps] == list(range(1, 31))
    for step in steps:
        now = [row.objectives[step.iteration - 1] for row in rows]
        assert step.objective == min(now)
        assert step.restart == now.index(min(now))
        assert step.best == min(min(row.objectives[: step.iteration]) for row in rows)


def test_dummies_stay_in_their_box() -> None:
    seen: list[Tensor] = []
    box = torch.full((1, 1, 1), -0.1), torch.full((1, 1, 1), 0.2)
    found(bowls(), PACE, box=box, on_step=lambda step: seen.append(step.guess.clone()))
    inside = torch.stack(seen[1:])
    assert float(inside.min()) == pytest.approx(-0.1)
    assert float(inside.max()) == pytest.approx(0.2)


def test_langevin_noise_has_the_stated_size() -> None:
    """With gradients of zero and one step, Adam moves against the sign of the noise; without noise it stays."""
    flat = Search(Unknowns(), normal, nothing, lambda g: 0.0 * g.difference().sum(1))
    seen: list[Tensor] = []
    found(bowls(), PACE._replace(iterations=2), search=flat, on_step=lambda s: seen.append(s.guess.clone()))
    found(
        bowls(), PACE._replace(iterations=2, langevin=0.5), search=flat, on_step=lambda s: seen.append(s.guess.clone())
    )
    generator = seeding.generator(0, "attack")
    start = normal(0, generator)
    noise = torch.randn(start.shape, generator=generator)
    assert torch.equal(seen[0], start)
    assert torch.equal(seen[1], start)
    assert torch.allclose(seen[3], start - 0.1 * noise.sign(), atol=1e-4)


def test_masks_descend_with_their_own_step_and_stay_in_their_range() -> None:
    site = DropoutSite(0, "site", 0.5, (1, 9))
    masks = Unknowns((OptimisedMasks(sites=(site,), begin="mean"),))
    still = found(bowls(), PACE, search=Search(masks.at_rate(0.0), normal, nothing, squared))[0]
    assert torch.equal(still.masks[0], torch.full((1, 9), 0.5))
    search = Search(masks.at_rate(0.5), normal, nothing, squared)
    moved = found(bowls(), PACE._replace(rate=0.0, iterations=200), search=search)[0]
    assert torch.equal(moved.inputs, normal(0, seeding.generator(0, "attack")))
    assert float(moved.masks[0].min()) == 0.0
    assert float(moved.masks[0].max()) <= 1.0


@given(st.integers(1, 4), st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_adam_is_torchs_adam_with_a_step_a_row(rows: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn((rows, 2, 3), generator=generator, dtype=torch.float64)
    gradients = torch.randn((12, rows, 2, 3), generator=generator, dtype=torch.float64)
    rates = torch.rand((12, rows), generator=generator, dtype=torch.float64)
    ours = start.clone()
    adam = Adam([ours])
    for gradient, rate in zip(gradients, rates, strict=True):
        adam.step([ours], [gradient], [rate])
    for row in range(rows):
        theirs = start[row].clone().requires_grad_()
        optimizer = torch.optim.Adam([theirs], lr=1.0)
        for gradient, rate in zip(gradients, rates, strict=True):
            optimizer.param_groups[0]["lr"] = float(rate[row])
            theirs.grad = gradient[row].clone()
            optimizer.step()
        assert torch.allclose(ours[row], theirs.detach(), rtol=1e-9, atol=1e-12)


def test_adam_forgets_rows_that_left() -> None:
    generator = torch.Generator().manual_seed(0)
    both, one = torch.zeros(2, 3), torch.zeros(1, 3)
    adam, alone = Adam([both]), Adam([one])
    gradients = torch.randn((6, 2, 3), generator=generator)
    for gradient in gradients[:3]:
        adam.step([both], [gradient], [torch.full((2,), 0.1)])
        alone.step([one], [gradient[1:]], [torch.full((1,), 0.1)])
    adam.keep(torch.tensor([1]))
    rest = both[1:].clone()
    for gradient in gradients[3:]:
        adam.step([rest], [gradient[1:]], [torch.full((1,), 0.1)])
        alone.step([one], [gradient[1:]], [torch.full((1,), 0.1)])
    assert torch.equal(rest, one)


@given(
    patience=st.integers(0, 4),
    factor=st.sampled_from([0.1, 0.5]),
    objectives=st.lists(
        st.tuples(st.sampled_from([1.0, 0.99995, 0.9, 0.5, 0.1]), st.floats(1e-3, 2.0)), min_size=1, max_size=40
    ),
)
@settings(max_examples=60, deadline=None)
def test_plateau_is_torchs_for_every_row(patience: int, factor: float, objectives: list[tuple[float, float]]) -> None:
    table = torch.tensor(objectives, dtype=torch.float64)
    ours = Plateau(2, patience, factor, torch.zeros(2, dtype=torch.float64))
    factors = torch.stack([ours.factors(i + 1, row) for i, row in enumerate(table)])
    for column in range(2):
        weight = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([weight], lr=1.0)
        theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=factor, patience=patience, eps=0.0)
        for row in range(len(table)):
            assert float(factors[row, column]) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
            theirs.step(float(table[row, column]))


def test_plateau_forgets_rows_that_left() -> None:
    plateau = Plateau(2, 0, 0.5, torch.zeros(2))
    plateau.factors(1, torch.tensor([1.0, 1.0]))
    plateau.factors(2, torch.tensor([0.1, 1.0]))
    plateau.keep(torch.tensor([1]))
    assert plateau.factors(3, torch.tensor([0.2])).tolist() == [0.5]


def test_steps_are_those_of_inverting_gradients() -> None:
    schedule = Steps(80)
    factors = [float(schedule.factors(i, torch.zeros(1))) for i in range(1, 81)]
    changes = [i + 1 for i, (a, b) in enumerate(pairwise(factors), 1) if a != b]
    assert changes == [31, 51, 71]
    assert factors[-1] == pytest.approx(1e-3)


def test_cosine_warms_up_and_ends_at_nothing() -> None:
    schedule = Cosine(100, 10)
    factors = [float(schedule.factors(i, torch.zeros(1))) for i in range(1, 101)]
    assert factors[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert factors[54] == pytest.approx(0.5)
    assert factors[-1] == pytest.approx(0.0, abs=1e-9)
    assert all(a > b for a, b in pairwise(factors[10:]))
    assert Constant().factors(3, torch.zeros(2)).tolist() == [1.0, 1.0]


def test_signs() -> None:
    gradient = torch.tensor([[3.0, -1.0, 0.0], [1e-9, 1e-9, -1e-9]])
    assert signed(gradient, "hard").tolist() == [[1, -1, 0], [1, 1, -1]]
    assert signed(gradient, "off") is gradient
    soft = signed(gradient, "soft")
    expected = torch.tanh(gradient[0] / gradient[0].square().mean().sqrt())
    assert torch.allclose(soft[0], expected)
    assert torch.allclose(soft[1], torch.tensor([1.0, 1.0, -1.0]) * np.tanh(1.0))


@pytest.mark.parametrize("sign", ["hard", "off"])
@pytest.mark.parametrize("name", ["inverting-gradients", "ig-train", "ig-mc", "wiig", "dropout-inversion"])
def test_victims_together_find_what_each_finds_alone(watched: Watched, name: str, sign: str) -> None:
    knows = ("labels", "masks", "batch-size", "dropout-rates", "input-statistics")
    observations = [watched(client=client, knows=knows)[0] for client in range(3)]
    method = registry.get("attack", name)
    attack = method.make(method.config.model_validate({"iterations": 25, "sign": sign, "trials": 2}))
    own = [seeding.generator(client, "attack") for client in range(3)]
    together = attack.together(observations, own, [lambda _s: None] * 3)
    for client, observation in enumerate(observations):
        alone = attack(observation, seeding.generator(client, "attack"))
        assert alone.best_iteration == together[client].best_iteration
        assert torch.allclose(alone.inputs, together[client].inputs, atol=1e-4)
        assert alone.objective == pytest.approx(together[client].objective, abs=1e-4)


def test_victims_of_other_shapes_follow_in_a_computation_of_their_own(watched: Watched) -> None:
    one, _, _ = watched()
    two, _, _ = watched(federation={"batch_size": 2})
    method = registry.get("attack", "dropout-inversion")
    attack = method.make(method.config.model_validate({"iterations": 5}))
    own = [seeding.generator(client, "attack") for client in range(3)]
    guesses = attack.together([one, two, one], own, [lambda _s: None] * 3)
    assert [len(guess.inputs) for guess in guesses] == [1, 2, 1]


@given(st.integers(2, 5), st.integers(2, 5))
@settings(max_examples=10, deadline=None)
def test_total_variation_is_the_mean_of_absolute_differences(height: int, width: int) -> None:
    rows = torch.rand(2, 2, 3, height, width)
    for image, ours in zip(rows, total_variation(rows), strict=True):
        across = sum(float((image[..., j + 1] - image[..., j]).abs().sum()) for j in range(width - 1))
        down = sum(float((image[..., i + 1, :] - image[..., i, :]).abs().sum()) for i in range(height - 1))
        expected = across / (6 * height * (width - 1)) + down / (6 * width * (height - 1))
        assert float(ours) == pytest.approx(expected, rel=1e-5)


def test_total_variation_of_what_is_no_image_is_nothing() -> None:
    assert total_variation(torch.rand(3, 2, 7)).tolist() == [0.0] * 3


def test_the_box_is_the_pixel_range(watched: Watched) -> None:
    observation, _, _ = watched()
    observation = type(observation)(**{**vars(observation), "spec": InputSpec((2, 3, 3), 4, (0.5, 0.2), (0.25, 0.1))})
    low, high = pixel_box(observation)
    assert low.flatten().tolist() == pytest.approx([-2.0, -2.0])
    assert high.flatten().tolist() == pytest.approx([2.0, 8.0])


@given(st.integers(2, 6), st.integers(2, 6))
@settings(max_examples=10, deadline=None)
def test_the_median_filter_is_scipys(height: int, width: int) -> None:
    images = torch.rand(2, 1, 2, height, width)
    ours = median_filtered(images)
    for filtered, image in zip(ours.view(-1, height, width), images.view(-1, height, width), strict=True):
        assert np.array_equal(filtered.numpy(), median_filter(image.numpy(), size=3, mode="mirror"))


def test_starts() -> None:
    def start(kind: Any, shape: tuple[int, ...] = (2, 3, 10, 7)) -> Tensor:
        return first_inputs(kind, shape, 4, torch.Generator().manual_seed(1))

    assert not start("grey").any()
    assert float(start("normal", (1, 1, 100, 100)).std()) == pytest.approx(1.0, abs=0.05)
    patterned = start("patterned")
    assert patterned.shape == (2, 3, 10, 7)
    assert torch.equal(patterned[..., 4:8, :], patterned[..., :4, :])
    assert torch.equal(patterned[..., 4:7], patterned[..., :3])
    assert not torch.equal(patterned[0], patterned[1])
    colour = start("colour")
    assert torch.equal(colour, colour[..., :1, :1].expand_as(colour))
    assert len(colour[..., 0, 0].unique()) == 6
    assert start("patterned", (2, 5)).shape == (2, 5)
