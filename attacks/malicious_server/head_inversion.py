"""head-inversion: where clients train a head alone, read features off its gradient, and follow them back to images.

Idea: rows of the head's first layer are normal, and its biases let units fire for few examples or many, so that in a
    batch of any size some fire for one. Its features lead back through the frozen backbone, near the server's images.
Equation: f = dW_r / db_r where unit r fires for x alone; x = argmin (x - m(f))^T C^-1 (x - m(f)) over f(x) = f, with m
    a kernel regression and C the covariance of the server's images. A head of one layer: f by its softmax equations.
Assumes: malicious server with images of its own that sees one gradient of the head: a linear layer with bias on the
    features, then ReLU and a linear layer, or nothing. The rate of dropout in front of the head, if there is any.
Recovers: images up to what features tell: exactly from as many as pixels; which image it was from far fewer.
Fails: noise; batches that mix in batch normalisation; a head of one layer with as many examples as classes or more.
Source: inspired by Maui, arXiv 2509.11451, of which the abstract was read; biases, prior and search are this project's.
"""

from __future__ import annotations

import copy
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
from attacks.core.pixels import pixel_box
from attacks.core.preconditions import one_gradient_only
from attacks.core.results import no_guess
from attacks.malicious_server._imprint import check_public
from attacks.malicious_server._isolated_units import (
    Singles,
    above_rounding,
    distinct,
    expected_examples,
    linear,
    reconstruction,
)
from attacks.malicious_server._linear_calls import kept_scale, lacks_bias, lacks_relu, linear_calls
from attacks.malicious_server._public_prior import PublicPrior
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Attack, Effort, Tables
from fedsim.core.layer_calls import read_by
from fedsim.core.masks import keep_masks, without_dropout
from fedsim.core.registry import attack
from fedsim.core.types import Config, InputSpec, Observation, OnStep, Reconstruction, View

_IMAGES = "images_of_the_server"  # beside the model, no part of its state: the server keeps them, and sends none
_AGREEMENT = 1e-5  # of how far features lie apart: rounding is below; mixtures of one class differ by little more
_ALIKE = 1e-3  # of the same: other examples are beyond
_DROPPED = 1e-6  # of an example's largest feature; rounding errors stay below


class HeadInversionConfig(Config):
    """Settings of the attack."""

    rarest: float = Field(default=1 / 256, gt=0, lt=1, description="least share of images for which a unit fires")
    commonest: float = Field(
        default=0.5, gt=0, lt=1, description="largest such share; logarithms of shares are drawn evenly between both"
    )
    images: int = Field(default=1000, ge=2, description="most images of the server's own that it looks at")
    steps: int = Field(default=STEPS, ge=1, description="most steps that lead from features to an image")


class _Head(NamedTuple):
    """The first layer of the head, and whether a ReLU stands behind it."""

    entry: str
    is_rectified: bool


@final
@attack(
    "head-inversion",
    summary="malicious server: a head's features, followed back to images",
    paper="2509.11451",
    fidelity="inspired",
    deviates="only the abstract was read; biases, prior and search are this project's",
)
class HeadInversion(Attack[HeadInversionConfig]):
    """Reads features of single examples off a head's gradient, and follows them back through a frozen backbone."""

    effort: ClassVar[Effort] = "search"
    views: ClassVar[frozenset[View]] = frozenset({"single-update", "sum"})
    crafts: ClassVar[bool] = True
    example: ClassVar[Tables] = {
        "model": {"width": 24, "depth": 1, "bias": True, "dropout": 0.0},
        "components": [{"name": "transfer-head", "width": 32}],
    }

    def craft(self, model: nn.Module, spec: InputSpec, public: Tensor, generator: torch.Generator) -> nn.Module:
        """Return the model with other weights and biases in the first layer of its head.

        Raises:
            NotApplicable: it has no such head, or the server has no images of its own.
        """
        check_public(public)
        head = _head(model, spec.shape)
        if isinstance(head, str):
            raise NotApplicable(head)
        images = public[: self.config.images]
        with torch.no_grad(), keep_masks(generator):
            there = images.to(next(model.parameters()))
            (read,) = read_by(model.train(), [head.entry], there, nullcontext())
        layer = model.get_submodule(head.entry)
        assert isinstance(layer, nn.Linear)
        _write(layer, read.double(), self.config if head.is_rectified else None, generator)
        setattr(model, _IMAGES, images)
        return model

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse honest models, hidden heads, several steps, and more examples than a head of one layer tells."""
        head = _head(observation.model, observation.spec.shape)
        if isinstance(head, str):
            return head
        if not hasattr(observation.model, _IMAGES):
            return "the server did not write the clients' head for this attack"
        if not {f"{head.entry}.weight", f"{head.entry}.bias"} <= observation.update.tensors.keys():
            return f"the server does not see the gradient of the head's first layer '{head.entry}'"
        classes = observation.spec.classes
        if not head.is_rectified and examples_of(observation) >= classes:
            return f"a head of one layer tells fewer examples apart than it has classes, which are {classes}"
        return one_gradient_only(observation)

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Read the features of examples, and follow each of them back."""
        singles, facts = single_features(observation, generator)
        if not len(singles.units):
            return no_guess(observation, "gave up: the head tells no example apart", facts=facts)
        examples, apart = follow_features(observation, singles.examples, self.config.steps)
        facts |= {
            "distance of features, median": float(apart.median()),
            "features a pixel": singles.examples.shape[1] / examples[0].numel(),
        }
        complete, entry = Singles(examples, singles.units, singles.coefficients), _entry(observation)
        notes = (f"layer '{entry}' reads the features",)
        return reconstruction(observation, entry, complete, on_step, facts=facts, notes=notes)


def _head(model: nn.Module, shape: tuple[int, ...]) -> _Head | str:
    """Return the first trained linear layer that reads one vector an example, or why there is none that suits."""
    calls = linear_calls(model, shape)
    if isinstance(calls, str):
        return calls
    trained = [
        number
        for number, call in enumerate(calls)
        if call.read.dim() == 2 and model.get_submodule(call.name).weight.requires_grad  # noqa: PLR2004 - (N, D)
    ]
    if not trained:
        return "no linear layer that is trained reads one vector of features an example"
    entry, behind = calls[trained[0]], calls[trained[0] + 1 :]
    if reason := lacks_bias(model, entry.name) or (lacks_relu(entry, behind[0]) if behind else None):
        return reason
    return _Head(entry.name, bool(behind))


@torch.no_grad()
def _write(layer: nn.Linear, read: Tensor, shares: HeadInversionConfig | None, generator: torch.Generator) -> None:
    """Write rows of usual size across the mean of the features, and biases by the shares for which units fire.

    Args:
        layer: the first of the head.
        read: what it reads of the server's images, shape (N, D), float64.
        shares: from which to which; None for biases of 0.
        generator: of rows and shares.
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
    below = ((1 - fires) * (len(read) - 1)).long().clamp_max(len(read) - 2)[None]
    layer.bias.copy_(-(places.gather(0, below) + places.gather(0, below + 1))[0] / 2)


def single_features(observation: Observation, generator: torch.Generator) -> tuple[Singles, dict[str, float]]:
    """Return what the head read of single examples, no more than there are, and figures.

    Args:
        observation: of a client whose head the server wrote.
        generator: of the search that separates the examples of a head of one layer.
    """
    head, facts = _head(observation.model, observation.spec.shape), dict[str, float]()
    assert not isinstance(head, str)
    if head.is_rectified:
        singles, facts = _isolated(observation, head.entry)
    else:
        singles = _separated(observation, head.entry, generator)
    return singles.chosen(torch.arange(len(singles.units))[: expected_examples(observation)]), facts


def read_features(observation: Observation, images: Tensor) -> Tensor:
    """Return what the head reads of images (N, *shape), without dropout, shape (N, D), float64."""
    model = _still(observation)
    return read_by(model, [_entry(observation)], images.to(next(model.parameters())), without_dropout())[0]


def _still(observation: Observation) -> nn.Module:
    """Return a copy of the model in double precision that neither drops out nor trains."""
    return copy.deepcopy(observation.model).double().eval().requires_grad_(False)


def _entry(observation: Observation) -> str:
    head = _head(observation.model, observation.spec.shape)
    assert not isinstance(head, str)
    return head.entry


def _isolated(observation: Observation, entry: str) -> tuple[Singles, dict[str, float]]:
    """Return the features of examples that units show alone, and figures."""
    sent = observation.update.tensors[f"{entry}.weight"]
    bias = observation.update.tensors[f"{entry}.bias"].double()
    fired = (above_rounding(bias, sent.dtype) & sent.any(1)).nonzero().flatten()
    rows = sent.double()[fired] / bias[fired, None]
    singles, apart = Singles(rows, fired, bias[fired]), torch.cdist(rows, rows)
    known = read_features(observation, _images(observation))
    spread = (known - known.mean(0)).norm(dim=1).median()
    chosen, agreed = distinct(
        singles, rows, linear(observation.model, entry), apart <= _AGREEMENT * spread, apart <= _ALIKE * spread
    )
    facts = {"units that fired": float(len(fired)), "examples seen in several units": float(agreed)}
    return singles.chosen(chosen), facts


def _separated(observation: Observation, entry: str, generator: torch.Generator) -> Singles:
    """Return the features of all examples by the equations of a softmax behind one layer; none where they fail."""
    labels = labels_of(observation)
    head = features_of(observation, labels, generator)
    if head is None:
        return Singles(torch.empty(0), torch.empty(0, dtype=torch.long), torch.empty(0))
    weight, bias = linear(observation.model, entry)
    chances = (head.features @ weight.T + bias).softmax(1).gather(1, labels[:, None])[:, 0]
    return Singles(head.features, labels, gradient_weight(observation) * (chances - 1) / len(labels))


def follow_features(observation: Observation, features: Tensor, steps: int = STEPS) -> tuple[Tensor, Tensor]:
    """Return an image (G, *shape) for each of the features, and how far from them it is, relative, shape (G,).

    Args:
        observation: of a client whose head the server wrote.
        features: of single examples, with what dropout made of them, shape (G, D), float64.
        steps: at most, for each image.
    """
    entry, images = _entry(observation), _images(observation)
    models = _still(observation), _still(observation).float()
    prior, known = PublicPrior(images), read_features(observation, images)
    scale = kept_scale(observation, entry)
    examples, apart = images.new_empty(len(features), *images.shape[1:]), images.new_zeros(len(features))
    kept = (features.abs() > _DROPPED * features.abs().amax(1, keepdim=True)) | (scale == 1.0)

    for pattern in kept.unique(dim=0):  # one for all, without dropout in front of the head
        same = (kept == pattern).all(1).nonzero().flatten()
        wanted = features[same][:, pattern] / scale
        starts = prior.guess(known[:, pattern], wanted)
        read, roughly = (_reader(model, entry, pattern) for model in models)
        for place, target, start in zip(same, wanted, starts, strict=True):
            image = follow_back(read, target, start[None], prior.spread, roughly=roughly, steps=steps)
            examples[place] = image[0]
            apart[place] = (read(image)[0] - target).norm() / target.norm()
    if "input-statistics" in observation.threat.knows:
        examples = examples.clamp(*(bound.double() for bound in pixel_box(observation)))
    return examples, apart


def _reader(model: nn.Module, entry: str, pattern: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what reads the features of a pattern (D,) in the model's precision, and hands them on as float64."""
    like = next(model.parameters())
    return lambda image: read_by(model, [entry], image.to(like), without_dropout())[0][:, pattern].double()


def _images(observation: Observation) -> Tensor:
    """Return the server's images, float64."""
    kept: Tensor = getattr(observation.model, _IMAGES)
    return kept.to(next(observation.model.parameters())).double()
