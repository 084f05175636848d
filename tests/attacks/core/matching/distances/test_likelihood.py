"""The likelihood of known noise, beside torch's own distributions."""

import math
from typing import Any

import pytest
import torch
from torch import distributions

from attacks.core.matching.comparison import ExplicitGradients, squared_norms
from attacks.core.matching.distances.likelihood import Likelihood
from attacks.core.matching.terms import DistanceConfig
from fedsim.core.errors import NotApplicable
from fedsim.core.types.effects import AddedNoise
from tests.attacks.core.matching.measures import alone
from tests.attacks.solving import attacked
from tests.federating import watched


def likelihood(noise: AddedNoise, bound: float | None) -> Likelihood:
    """The likelihood of noise on tensors of 12 and of 5 entries."""
    made = Likelihood(DistanceConfig())
    made.take(noise, bound, torch.tensor([12, 5]))
    return made


def gradients(rows: int = 2) -> tuple[ExplicitGradients, list[torch.Tensor]]:
    """Rows of two tensors beside observed ones, in double precision; and the observed ones."""
    numbers = torch.Generator().manual_seed(1)
    draw = lambda: [torch.randn(s, generator=numbers, dtype=torch.float64) for s in ((4, 3), (5,))]  # noqa: E731
    target = draw()
    own = [tuple(draw()) for _ in range(rows)]
    return ExplicitGradients(own, [target] * rows, squared_norms([target]).expand(rows, -1)), target


@pytest.mark.paper_step("map-estimate", "likelihood of the gradient under the defense")
@pytest.mark.parametrize("law", ["gaussian", "laplace"])
@pytest.mark.parametrize("is_relative", [False, True])
def test_the_distance_is_the_log_likelihood_of_torch(law: Any, is_relative: bool) -> None:
    seen, target = gradients()
    scales = [0.7] * 2
    if is_relative:
        scales = [0.7 * math.sqrt(float(t.square().mean()) / (1 + 0.7**2)) for t in target]
    found = likelihood(AddedNoise(law, 0.7, is_relative), None)(seen)
    for row, value in zip(seen.rows, found.tolist(), strict=True):
        total, constant = 0.0, 0.0
        for g, t, scale in zip(row, target, scales, strict=True):
            noise = distributions.Normal(g, scale) if law == "gaussian" else distributions.Laplace(g, scale / 2**0.5)
            total -= float(noise.log_prob(t).sum())
            constant -= float(noise.log_prob(g).sum())
        assert value == pytest.approx((total - constant) / 17, rel=1e-6)


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
def test_a_clipped_gradient_is_compared_with_clipped_ones(law: Any) -> None:
    seen, target = gradients(1)
    clipped = [g * (0.5 / torch.cat([g.flatten() for g in seen.rows[0]]).norm()) for g in seen.rows[0]]
    whole = ExplicitGradients([tuple(clipped)], [target], seen.norms)
    noise = AddedNoise(law, 0.3, False)
    assert likelihood(noise, 0.5)(seen) == pytest.approx(likelihood(noise, None)(whole), rel=1e-9)
    assert likelihood(noise, 1e9)(seen) == pytest.approx(likelihood(noise, None)(seen), rel=1e-9)


def test_without_known_noise_there_is_no_likelihood() -> None:
    observation, _, _ = watched()
    with pytest.raises(NotApplicable, match="no defense says the law and the scale of its noise"):
        Likelihood(DistanceConfig()).prepare(alone(observation))
    with pytest.raises(NotApplicable, match="no defense says the law"):
        attacked("inverting-gradients", observation, distance="likelihood", max_iterations=2)
