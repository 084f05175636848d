"""What a component does that says nothing of its own, and steps that are scaled."""

import torch
from torch import Tensor, nn

from fedsim.core.hooks import Layer
from fedsim.core.types import Config
from tests.components.optimizer.stepping import make


class Plain(Layer[Config]):
    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        return model


class First(Plain):
    def initialise(self, model: nn.Module, public: Tensor, generator: torch.Generator) -> None:
        """Set nothing."""


def test_a_component_that_says_nothing_fits_tells_nothing_and_scores_nothing() -> None:
    own = Plain(Config())
    assert own.refuses(None, nn.Linear(1, 1)) is None  # type: ignore[arg-type]
    assert own.public_view() is None
    assert own.scores(nn.Linear(1, 1), None, None) == {}  # type: ignore[arg-type]
    assert own.step_factors({}) == {}
    assert own.batch_reader is None


def test_first_values_from_data_are_seen_in_the_class() -> None:
    assert not Plain(Config()).initialises
    assert First(Config()).initialises


def test_a_factor_scales_what_a_step_changed_and_leaves_other_parameters() -> None:
    """Also of an optimizer that is not linear in the gradient."""
    for name, settings in (("sgd", {"learning_rate": 0.1, "momentum": 0.9}), ("adam", {"learning_rate": 0.1})):
        start = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0])}
        gradient = {"a": torch.tensor([0.5, -4.0]), "b": torch.tensor([1.0])}
        plain, scaled = ({key: value.clone() for key, value in start.items()} for _ in range(2))
        make(name, **settings).step(plain, gradient, {})
        factors = {"a": torch.tensor([0.0, 3.0])}
        make(name, **settings).scaled_step(factors, scaled, gradient, {})
        assert torch.allclose(scaled["a"], start["a"] + factors["a"] * (plain["a"] - start["a"]))
        assert torch.equal(scaled["b"], plain["b"])
