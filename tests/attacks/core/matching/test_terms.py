"""Terms of the objective: named in settings, checked before a run, and what each promises."""

from typing import Any

import pytest
import torch
from torch import Tensor

from attacks.core.matching.comparison import ExplicitGradients, squared_norms
from attacks.core.matching.priors.total_variation import total_variation
from attacks.core.matching.terms import DistanceChoice, PriorChoice, left_out, sum_of
from fedsim.core import registry
from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.core.types.effects import AddedNoise
from fedsim.scenario import parse
from tests.attacks.core.matching.measures import alone
from tests.attacks.solving import attacked
from tests.federating import watched

DISTANCES, PRIORS = registry.methods("distance"), registry.methods("prior")


def made(name: str) -> Any:
    """A distance with its defaults, of known noise where it needs some."""
    distance = DISTANCES[name].make(DISTANCES[name].config())
    if name == "likelihood":
        distance.take(AddedNoise("gaussian", 0.1, False), None, torch.tensor([6, 4]))
    return distance


def rows(count: int) -> tuple[list[tuple[Tensor, ...]], list[Tensor]]:
    generator = torch.Generator().manual_seed(3)
    draw = lambda: tuple(torch.randn(s, generator=generator, dtype=torch.float64) for s in ((2, 3), (4,)))  # noqa: E731
    return [draw() for _ in range(count)], list(draw())


@pytest.mark.parametrize("name", DISTANCES)
def test_a_distance_is_least_at_what_was_observed_and_rows_do_not_mix(name: str) -> None:
    others, target = rows(2)
    every = [tuple(target), *others]
    figures = made(name)(ExplicitGradients(every, [target] * 3, squared_norms([target] * 3)))
    assert figures.shape == (3,)
    assert figures[0] < figures[1:].min()
    for row, figure in zip(every, figures.tolist(), strict=True):
        alone_ = made(name)(ExplicitGradients([row], [target], squared_norms([target])))
        assert float(alone_) == pytest.approx(figure, rel=1e-12)


@pytest.mark.parametrize("name", DISTANCES)
def test_a_distance_descends_along_its_derivative(name: str) -> None:
    others, target = rows(1)
    variables = [tensor.clone().requires_grad_() for tensor in others[0]]
    distance = made(name)

    def value(*tensors: Tensor) -> Tensor:
        return distance(ExplicitGradients([tensors], [target], squared_norms([target])))[0]

    assert torch.autograd.gradcheck(value, tuple(variables))


@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_has_a_figure_a_row_and_a_derivative_or_says_why_not(name: str) -> None:
    observation, _, _ = watched(model={"name": "vit-small", "width": 8, "heads": 2, "blocks": 1, "hidden": 8})
    prior = PRIORS[name].make(PRIORS[name].config())
    reason = prior.left_out(observation)
    if reason is not None:
        assert left_out([PriorChoice(name=name)], observation) == (f"the prior '{name}' is left out: {reason}",)
        return
    inputs = torch.rand((3, 1, *observation.spec.shape), generator=torch.Generator().manual_seed(0)).requires_grad_()
    masks = tuple(torch.full((3, *site.shape), 0.25, requires_grad=True) for site in observation.sites)
    figures = prior.of(alone(observation))(inputs, masks, [0, 0, 0])
    assert figures.shape == (3,)
    assert bool((figures >= 0).all())
    slopes = torch.autograd.grad(figures.sum(), (inputs, *masks), materialize_grads=True)
    assert all(bool(slope.isfinite().all()) for slope in slopes)
    assert any(slope.any() for slope in slopes)


def test_priors_are_added_up_with_their_weights() -> None:
    observation, _, _ = watched()
    inputs = torch.rand(2, 1, *observation.spec.shape)
    priors = [
        PriorChoice(name="total-variation", settings={"weight": 0.5}),
        PriorChoice(name="squared-norm", settings={"weight": 2.0}),
        PriorChoice(name="batch-statistics", settings={"weight": 1.0}),
    ]
    expected = 0.5 * total_variation(inputs) + 2.0 * inputs.square().flatten(1).sum(1)
    torch.testing.assert_close(sum_of(priors, alone(observation))(inputs, (), [0, 0]), expected)
    assert left_out(priors, observation) == (
        "the prior 'batch-statistics' is left out: the model keeps no running statistics",
    )
    assert not sum_of([], alone(observation))(inputs, (), [0, 0]).any()


def test_a_term_is_named_by_a_word_or_by_a_table() -> None:
    assert DistanceChoice.model_validate("squared") == DistanceChoice(name="squared")
    table = {"name": "total-variation", "weight": 0.3}
    assert PriorChoice.model_validate(table).model_dump() == table


TABLES = {"data": {"name": "digits"}, "model": {"name": "mlp"}, "title": "t"}


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"distance": "squard"}, "attacks.0.distance.name: there is no distance 'squard'. Did you mean 'squared'?"),
        ({"priors": ["total-variaton"]}, "attacks.0.priors.0.name: there is no prior 'total-variaton'. Did you mean"),
        (
            {"priors": [{"name": "squared-norm", "wait": 1}]},
            "attacks.0.priors.0.wait: there is no such key. Known",
        ),
        ({"priors": [{"name": "squared-norm", "weight": -1}]}, "attacks.0.priors.0.weight: input should be greater"),
        ({"distance": {"name": "l1", "depth_decay": 2}}, "attacks.0.distance.depth_decay: input should be less"),
        ({"total_variation": 1e-4}, "attacks.0.total_variation: there is no such key."),
    ],
)
def test_a_wrong_term_is_named_with_its_key_before_anything_runs(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ScenarioError) as error:
        parse({**TABLES, "attacks": [{"name": "inverting-gradients", **settings}]}, "s.toml")
    assert f"s.toml: {problem}" in str(error.value)


def test_settings_of_terms_are_filled_in_and_read_again() -> None:
    wanted = {"name": "inverting-gradients", "distance": "squared", "priors": ["squared-norm"]}
    scenario = parse({**TABLES, "attacks": [wanted]}, "s.toml")
    settings = scenario.model_dump(mode="json")["attacks"][0]
    assert (settings["distance"], settings["priors"]) == (
        {"name": "squared", "weight": 1.0},
        [{"name": "squared-norm", "weight": 1e-4}],
    )
    assert parse(scenario.model_dump(mode="json"), "again").attacks == scenario.attacks


@pytest.mark.paper_step("dropout-inversion", "objective: cosine distance and total variation")
@pytest.mark.paper_step("wiig", "objective: cosine distance and total variation")
def test_an_attack_searches_with_the_distance_and_the_priors_of_its_settings() -> None:
    observation, _, _ = watched()
    squared = attacked("inverting-gradients", observation, max_iterations=3, distance="squared", priors=())
    scaled = {"name": "squared", "weight": 1e-3}
    small = attacked("inverting-gradients", observation, max_iterations=3, distance=scaled, priors=())
    assert small.history[0][1] == pytest.approx(1e-3 * squared.history[0][1])
    with pytest.raises(FedsimError, match="there is no prior 'none'"):
        attacked("inverting-gradients", observation, max_iterations=3, priors=["none"])
