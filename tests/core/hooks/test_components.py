"""What a component does that says nothing of its own, and steps that are scaled."""

import torch
from torch import Tensor, nn

from fedsim.core import registry
from fedsim.core.hooks import Layer
from fedsim.core.types import Batch, Config, Reconstruction
from tests.components.optimizer.stepping import make
from tests.models.vlms import examples, small_vlm
from tests.tasks.truths import truth


class Plain(Layer[Config]):
    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        return model


class First(Plain):
    def initialise(self, model: nn.Module, public: Tensor, generator: torch.Generator) -> None:
        """Set nothing."""


def test_a_component_that_says_nothing_fits_tells_nothing_and_scores_nothing() -> None:
    own = Plain(Config())
    assert own.refuses(None, nn.Linear(1, 1)) is None  # type: ignore[arg-type]
    assert own.public_description() is None
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


def test_kept_and_dropped_patches_are_scored_apart() -> None:
    images, question, answer = examples(2)
    own = registry.get("component", "random-tokens")
    reducer = own.make(own.config.model_validate({"kept": 4})).with_name("random-tokens")
    model = reducer.prepare(small_vlm(), torch.Generator().manual_seed(0))
    places = model.get_buffer("reducers.0.places").tolist()
    guess = images.clone()
    for patch in range(16):
        row, column = divmod(patch, 4)
        wrong = 0.2 if patch not in places else 0.05  # 14 dB and 26 dB
        guess[:, :, 7 * row : 7 * row + 7, 7 * column : 7 * column + 7] += wrong
    private = truth(Batch(images, answer, {"question": question}))
    found = reducer.scores(model, private, Reconstruction.of(guess.flip(0)))
    assert found == {"share of kept patches read to 20 dB": 1.0, "share of dropped patches read to 20 dB": 0.0}
    assert reducer.scores(model, private, Reconstruction.of(guess[..., :7])) == {}
