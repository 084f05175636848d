"""head-inversion: recover features from the gradient of a trained head, and invert the frozen backbone to images.

Idea: rows of the head's first layer are normal, and its biases let units be active for few examples or many, so that in
    a batch of any size some units are active for a single example. Its features are inverted through the frozen
    backbone, with the server's images as a prior.
Equation: f = dW_r / db_r if unit r is active for x alone; x = argmin (x - m(f))^T C^-1 (x - m(f)) over f(x) = f, with m
    a kernel regression and C the covariance of the server's images. A head of one layer: f by its softmax equations.
Assumes: malicious server with its own images that sees a gradient of the head: a linear layer with bias on the
    features, then ReLU and a linear layer, or nothing. The rate of dropout in front of the head, if any.
Recovers: images as far as features determine them: exactly from as many features as pixels; the identity of the image
    from far fewer.
Fails: noise; batches that mix in batch normalisation; a head of one layer with as many examples as classes or more.
Source: inspired by Maui, arXiv 2509.11451, of which the abstract was read; biases, prior and search are this project's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import ClassVar, NamedTuple, final

import torch
from pydantic import Field
from torch import Tensor, nn

from attacks.core.feature_inversion import STEPS, follow_back
from attacks.core.head_features import features_of
from attacks.core.labels import examples_of, labels_of
from attacks.core.mean_gradient import gradient_weight
from attacks.core.outlooks import outlook_of
from attacks.core.pixels import pixel_box
from attacks.core.preconditions import one_gradient_only
from attacks.core.results import no_guess
from attacks.malicious_server._imprint import check_public
from attacks.malicious_server._isolated_units import (
    Singles,
    distinct,
    exceeds_rounding,
    expected_examples,
    linear,
    reconstruction,
)
from attacks.malicious_server._linear_calls import kept_scale, lacks_bias, lacks_relu, linear_calls
from attacks.malicious_server._public_prior import PublicPrior
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Attack, CostEstimate, Effort, Tables
from fedsim.core.nets.layer_calls import read_by
from fedsim.core.nets.masks import disable_dropout, keep_masks
from fedsim.core.registry import attack
from fedsim.core.types import Config, InputSpec, Observation, OnStep, Reconstruction, View

_IMAGES = "images_of_the_server"  # model attribute outside its state: the server keeps the images, and sends none
_AGREEMENT = 1e-5  # relative to the spread of features: rounding is below; mixtures of one class differ by little more
_ALIKE = 1e-3  # relative to the same: other examples are farther apart
_DROPPED = 1e-6  # relative to an example's largest feature; rounding errors stay below


class HeadInversionConfig(Config):
    """Settings of head-inversion."""

    rarest: float = Field(default=1 / 256, gt=0, lt=1, description="least share of images for which a unit fires")
    commonest: float = Field(
        default=0.5, gt=0, lt=1, description="largest such share; logarithms of shares are drawn evenly between both"
    )
    images: int = Field(default=1000, ge=2, description="most images of the server's own that it looks at")
    steps: int = Field(default=STEPS, ge=1, description="most steps that lead from features to an image")


class _Head(NamedTuple):
    """The first layer of the head, and whether a ReLU follows it."""

    entry: str
    is_rectified: bool


@final
@attack(
    "head-inversion",
    summary="malicious server: a head's features, followed back to images",
    tier="core",
    paper="2509.11451",
    fidelity="inspired",
    deviates="only the abstract was read; biases, prior and search are this project's",
)
class HeadInversion(Attack[HeadInversionConfig]):
    """Recovers features of single examples from a head's gradient, and inverts a frozen backbone."""

    effort: ClassVar[Effort] = "search"
    views: ClassVar[frozenset[View]] = frozenset({"single-update", "sum"})
    crafts_model: ClassVar[bool] = True
    example: ClassVar[Tables] = {
        "model": {"width": 24, "depth": 1, "bias": True, "dropout": 0.0},
        "components": [{"name": "transfer-head", "width": 32}],
    }

    def craft(self, model: nn.Module, spec: InputSpec, public: Tensor, generator: torch.Generator) -> nn.Module:
        """Return the model with other weights and biases in the first layer of its head.

        Raises:
            NotApplicable: the model has no suitable head, or the server has no suitable images.
        """
        check_public(public)
        head = _head(model, spec.shape)
        if isinstance(head, str):
            raise NotApplicable(head)
        images = public[: self.config.images]
        with torch.no_grad(), keep_masks(generator):
            probes = images.to(next(model.parameters()))
            (read,) = read_by(model.train(), [head.entry], probes, nullcontext())
        layer = model.get_submodule(head.entry)
        assert isinstance(layer, nn.Linear)
        _write(layer, read.double(), self.config if head.is_rectified else None, generator)
        setattr(model, _IMAGES, images)
        return model

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse honest models, hidden heads, several steps, and too many examples for a head of one layer."""
        head = _head(observation.model, observation.spec.shape)
        if isinstance(head, str):
            return head
        if not hasattr(observation.model, _IMAGES):
            return "the server did not write the clients' head for this attack"
        if not {f"{head.entry}.weight", f"{head.entry}.bias"} <= observation.update.tensors.keys():
            return f"the server does not see the gradient of the head's first layer '{head.entry}'"
        classes = observation.spec.classes
        if not head.is_rectified and examples_of(observation) >= classes:
            return f"a head of a single layer separates fewer examples than its {classes} classes"
        return one_gradient_only(observation)

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect a search from features to each image."""
        return outlook_of(
            observation, 150.0, 0.5, "the head separates examples, and a search follows their features back"
        )

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Recover the features of examples, and invert each of them."""
        singles, diagnostics = single_features(observation, generator)
        if not len(singles.units):
            return no_guess(observation, "gave up: the head separates no example", diagnostics=diagnostics)
        examples, distances = follow_features(observation, singles.examples, self.config.steps)
        diagnostics |= {
            "distance of features, median": float(distances.median()),
            "features a pixel": singles.examples.shape[1] / examples[0].numel(),
        }
        complete, entry = Singles(examples, singles.units, singles.coefficients), _entry(observation)
        notes = (f"layer '{entry}' reads the features",)
        return reconstruction(observation, entry, complete, on_step, diagnostics=diagnostics, notes=notes)


def _head(model: nn.Module, shape: tuple[int, ...]) -> _Head | str:
    """Return the first trained linear layer that reads one vector per example, or why none is suitable."""
    calls = linear_calls(model, shape)
    if isinstance(calls, str):
        return calls
    trained = [
        number
        for number, call in enumerate(calls)
        if call.read.dim() == 2 and model.get_submodule(call.name).weight.requires_grad  # noqa: PLR2004 - (N, D)
    ]
    if not trained:
        return "no trained linear layer reads a single feature vector per example"
    entry, later_calls = calls[trained[0]], calls[trained[0] + 1 :]
    if reason := lacks_bias(model, entry.name) or (lacks_relu(entry, later_calls[0]) if later_calls else None):
        return reason
    return _Head(entry.name, bool(later_calls))


@torch.no_grad()
def _write(layer: nn.Linear, read: Tensor, shares: HeadInversionConfig | None, generator: torch.Generator) -> None:
    """Write random rows orthogonal to the mean of the features, and biases at random shares of active images.

    Args:
        layer: the first layer of the head.
        read: its inputs for the server's images, shape (N, D), float64.
        shares: range of the shares; None for biases of 0.
        generator: random source of rows and shares.
    """
    units, features = layer.weight.shape
    rows = torch.randn(units, features, generator=generator, dtype=torch.float64) / math.sqrt(3 * features)
    mean = read.mean(0)
    rows -= torch.outer(rows @ mean, mean) / mean.square().sum().clamp_min(torch.finfo(torch.float64).tiny)
    layer.weight.copy_(rows)
    layer.bias.zero_()
    if shares is None:
        return
    places = (read @ rows.T).sort(0).values
    if not bool((places[-1] > places[0]).all()):
        raise NotApplicable("its features are the same for all examples of the test set")
    uniforms = torch.rand(units, generator=generator, dtype=torch.float64)
    fires = shares.rarest * (shares.commonest / shares.rarest) ** uniforms
    index_below = ((1 - fires) * (len(read) - 1)).long().clamp_max(len(read) - 2)[None]
    layer.bias.copy_(-(places.gather(0, index_below) + places.gather(0, index_below + 1))[0] / 2)


def single_features(observation: Observation, generator: torch.Generator) -> tuple[Singles, dict[str, float]]:
    """Return the head's inputs of single examples, at most as many as the update holds, and figures.

    Args:
        observation: update of a client with a head that the server wrote.
        generator: random source of the search that separates the examples of a head of one layer.
    """
    head, diagnostics = _head(observation.model, observation.spec.shape), dict[str, float]()
    assert not isinstance(head, str)
    if head.is_rectified:
        singles, diagnostics = _isolate_features(observation, head.entry)
    else:
        singles = _separate_features(observation, head.entry, generator)
    return singles.select(torch.arange(len(singles.units))[: expected_examples(observation)]), diagnostics


def read_features(observation: Observation, images: Tensor) -> Tensor:
    """Return the head's inputs for images (N, *shape), without dropout, shape (N, D), float64."""
    model = _still(observation)
    return read_by(model, [_entry(observation)], images.to(next(model.parameters())), disable_dropout())[0]


def _still(observation: Observation) -> nn.Module:
    """Return a copy of the model in double precision, in evaluation mode and without gradients."""
    return observation.working_copy("eval", torch.float64).requires_grad_(False)


def _entry(observation: Observation) -> str:
    head = _head(observation.model, observation.spec.shape)
    assert not isinstance(head, str)
    return head.entry


def _isolate_features(observation: Observation, entry: str) -> tuple[Singles, dict[str, float]]:
    """Return the features of examples that single units isolate, and figures."""
    sent = observation.update.tensors[f"{entry}.weight"]
    bias = observation.update.tensors[f"{entry}.bias"].double()
    fired = (exceeds_rounding(bias, sent.dtype) & sent.any(1)).nonzero().flatten()
    rows = sent.double()[fired] / bias[fired, None]
    singles, distances = Singles(rows, fired, bias[fired]), torch.cdist(rows, rows)
    known = read_features(observation, _images(observation))
    spread = (known - known.mean(0)).norm(dim=1).median()
    chosen, agreed = distinct(
        singles, rows, linear(observation.model, entry), distances <= _AGREEMENT * spread, distances <= _ALIKE * spread
    )
    diagnostics = {"units that fired": float(len(fired)), "examples seen in several units": float(agreed)}
    return singles.select(chosen), diagnostics


def _separate_features(observation: Observation, entry: str, generator: torch.Generator) -> Singles:
    """Return the features of all examples by the softmax equations of a single layer; none if they fail."""
    labels = labels_of(observation)
    head = features_of(observation, labels, generator)
    if head is None:
        return Singles(torch.empty(0), torch.empty(0, dtype=torch.long), torch.empty(0))
    weight, bias = linear(observation.model, entry)
    chances = (head.features @ weight.T + bias).softmax(1).gather(1, labels[:, None])[:, 0]
    return Singles(head.features, labels, gradient_weight(observation) * (chances - 1) / len(labels))


def follow_features(observation: Observation, features: Tensor, steps: int = STEPS) -> tuple[Tensor, Tensor]:
    """Return an image (G, *shape) for each feature vector, and its relative distance in feature space, shape (G,).

    Args:
        observation: update of a client with a head that the server wrote.
        features: features of single examples, dropout included, shape (G, D), float64.
        steps: largest number of steps for each image.
    """
    entry, images = _entry(observation), _images(observation)
    models = _still(observation), _still(observation).float()
    prior, known = PublicPrior(images), read_features(observation, images)
    scale = kept_scale(observation, entry)
    examples, distances = images.new_empty(len(features), *images.shape[1:]), images.new_zeros(len(features))
    kept = (features.abs() > _DROPPED * features.abs().amax(1, keepdim=True)) | (scale == 1.0)

    for pattern in kept.unique(dim=0):  # a single pattern without dropout in front of the head
        same = (kept == pattern).all(1).nonzero().flatten()
        wanted = features[same][:, pattern] / scale
        starts = prior.guess(known[:, pattern], wanted)
        read, roughly = (_reader(model, entry, pattern) for model in models)
        for place, target, start in zip(same, wanted, starts, strict=True):
            image = follow_back(read, target, start[None], prior.spread, roughly=roughly, steps=steps)
            examples[place] = image[0]
            distances[place] = (read(image)[0] - target).norm() / target.norm()
    if "input-statistics" in observation.threat.knows:
        examples = examples.clamp(*(bound.double() for bound in pixel_box(observation)))
    return examples, distances


def _reader(model: nn.Module, entry: str, pattern: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the function from an image to its features of a pattern (D,), in the model's precision, as float64."""
    like = next(model.parameters())
    return lambda image: read_by(model, [entry], image.to(like), disable_dropout())[0][:, pattern].double()


def _images(observation: Observation) -> Tensor:
    kept: Tensor = getattr(observation.model, _IMAGES)
    return kept.to(next(observation.model.parameters())).double()
