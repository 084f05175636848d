"""nested-dropout: truncates the last features to their first k channels, with a random k in each step.

Idea: Early channels are trained in nearly every step, late channels rarely; so features are sorted by importance, and
    the network can be truncated at a fixed k afterwards.
Equation: h <- (h_1, ..., h_k, 0, ..., 0), p(k) proportional to exp(-((k - mu) / eta)^2), k = 1, ..., D; no rescaling
Assumes: a dropout layer to replace, which gets feature vectors and runs once per forward pass.
Leaks: whole columns of the classifier's gradient are zero, so an update shows k; an attacker has to find a single
    integer. Only the content of the late channels stays hidden.
Fails: as a defense: the remaining columns are exact.
Source: Chen et al. 2022, arXiv 2206.13140. With `validation` the server chooses k after each round as in the paper, by
    argmax over k of accuracy(k) - 1e-5 (k - 1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self, final

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor, nn

from fedsim.components.core.feature_prefix import Alternating, Prefix, prefixes
from fedsim.core.errors import NotApplicable, did_you_mean
from fedsim.core.hooks import IMAGES_AND_TEXT, Layer, PublicFederation
from fedsim.core.nets.masks import disable_dropout, dropout_sites
from fedsim.core.registry import component
from fedsim.core.types import Batch, Config, Modality, Reconstruction, Truth

_NAME = "nested-dropout"
_MAPS = 4  # dimensions of a batch of feature maps
_PRICE = 1e-5  # accuracy that each channel must gain
_AT_ONCE = 256


def _spell_infinity(eta: Any) -> Any:
    """Return infinity as text, because JSON has no number for it."""
    return "inf" if isinstance(eta, float) and math.isinf(eta) and eta > 0 else eta


class NestedDropoutConfig(Config):
    """Settings of Nested Dropout."""

    eta: Annotated[
        Annotated[float, Field(ge=0)] | Literal["inf"],
        BeforeValidator(_spell_infinity),
        Field(
            default=10.0, description="width of the bell, in channels; 0: nothing is cut; inf: all k are equally likely"
        ),
    ]
    mu: float = Field(default=0.0, description="top of the bell, in channels")
    kept: int | None = Field(default=None, ge=1, description="k in evaluation; all channels when absent")
    validation: int = Field(
        default=0,
        ge=0,
        description="number of the server's test examples on which it chooses k after each round; they are left out of "
        "the test. 0: k is `kept`",
    )
    at: str | None = Field(default=None, description="dropout layer to replace; unset: the last")
    per_sample: bool = Field(default=False, description="every example has its own k; else the batch shares k")
    alternate_with: str | None = Field(
        default=None,
        description="an earlier dropout layer; in each training step a fair coin chooses which of the two layers is "
        "cut. In evaluation the earlier layer is not cut",
    )

    @model_validator(mode="after")
    def _has_one_source_of_k(self) -> Self:
        if self.kept is not None and self.validation:
            raise ValueError("kept and validation exclude each other: the server chooses k on validation examples.")
        return self


@final
@component(
    _NAME,
    summary="cuts the last features to a prefix of random length",
    tier="research",
    paper="2206.13140",
    fidelity="variant",
    deviates="k is chosen on validation only if `validation` is set; the last checkpoint counts, not the best",
    paper_steps=(
        ("length of the prefix from a Gaussian law", "fedsim.components.core.feature_prefix.prefix_odds"),
        ("channels behind the prefix are zero", "NestedDropout.prepare"),
        ("k of the highest validation accuracy after each round", "NestedDropout.after_round"),
        ("checkpoint of the best validation accuracy", ""),
    ),
)
class NestedDropout(Layer[NestedDropoutConfig]):
    """Replaces a dropout layer: features (B, ..., D) -> (B, ..., D)."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return `model`, changed in place; with eta = 0 the layer is the identity.

        Raises:
            NotApplicable: the model has no dropout layer, or none of that name.
        """
        place, alternate = self._places(model)
        config, eta = self.config, float(self.config.eta)
        if not eta:
            for name in filter(None, (place, alternate)):
                model.set_submodule(name, nn.Identity())
            return model
        last = Prefix(eta, config.mu, config.kept, per_example=config.per_sample, is_chosen=bool(config.validation))
        if alternate is None:
            model.set_submodule(place, last)
            return model
        first = Alternating(Prefix(eta, config.mu, None, per_example=config.per_sample))
        model.set_submodule(alternate, first)
        model.set_submodule(place, Alternating(last, first))
        return model

    @property
    def validation(self) -> int:
        """Number of validation examples; 0 with eta = 0, which cuts nothing."""
        return self.config.validation if float(self.config.eta) else 0

    def after_round(self, model: nn.Module, round_: int, validation: Batch) -> None:
        """Set k to the prefix length of the highest validation accuracy; among nearly equal lengths to the shortest."""
        if not self.validation:
            return
        layers = [layer for layer in prefixes(model) if layer.chosen is not None]
        accuracies = [
            _accuracy(model, validation, layers, k) for k in range(1, _channels(model, validation, layers) + 1)
        ]
        prices = _PRICE * torch.arange(len(accuracies), dtype=torch.float64)
        _set(layers, 1 + int((torch.tensor(accuracies, dtype=torch.float64) - prices).argmax()))

    def _places(self, model: nn.Module) -> tuple[str, str | None]:
        """Return the names of the replaced layer and of the layer that alternates with it."""
        layers = [name for name, module in model.named_modules() if isinstance(module, nn.Dropout)]
        if not layers:
            raise NotApplicable(f"component '{_NAME}': the model has no dropout layer (nn.Dropout) to replace.")
        place, alternate = self.config.at or layers[-1], self.config.alternate_with
        for name in (place, alternate):
            if name is not None and name not in layers:
                raise NotApplicable(
                    f"component '{_NAME}': no dropout layer is called '{name}'.{did_you_mean(name, layers)}"
                )
        if alternate is not None and layers.index(alternate) >= layers.index(place):
            raise NotApplicable(f"component '{_NAME}': alternate_with must name a layer in front of '{place}'.")
        return place, alternate

    def refuses(self, federation: PublicFederation, model: nn.Module) -> str | None:
        """Refuse feature maps, layers that run more than once per pass, and `kept` above the number of channels."""
        shapes: dict[Prefix, list[torch.Size]] = {layer: [] for layer in prefixes(model)}

        def note(layer: Prefix, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if layer.training:
                shapes[layer].append(inputs[0].shape)

        handles = [layer.register_forward_pre_hook(partial(note, layer)) for layer in shapes]
        with torch.no_grad(), disable_dropout():
            model(federation.probe(2).inputs)
        for handle in handles:
            handle.remove()
        names = {module: name for name, module in model.named_modules()}
        for layer, of_calls in shapes.items():
            if len(of_calls) != 1:
                return f"its layer '{names[layer]}' runs {len(of_calls)} times in a forward pass, expected once: set at"
            (shape,) = of_calls
            if len(shape) == _MAPS:
                return f"it cuts feature vectors, but its layer gets maps of shape {tuple(shape[1:])}"
            if layer.kept is not None and layer.kept > shape[-1]:
                return f"kept is {layer.kept}, but its layer has {shape[-1]} channels"
        return None

    def scores(self, model: nn.Module, truth: Truth, guess: Reconstruction) -> Mapping[str, float]:
        """Return, per layer, the distance in channels between the inferred k and the client's k.

        Empty with `alternate_with`, because a coin decides which of both layers uses its k.
        """
        if truth.batches[1:] or self.config.alternate_with is not None:
            return {}
        (batch,), (masks,) = truth.batches, truth.masks
        sites = dropout_sites(model, batch.inputs.shape[1:], len(batch), batch.inputs.dtype)
        lengths = {s.name: float(m.sum(-1).max()) for s, m in zip(sites, masks, strict=True) if s.odds}
        readings = {name: guess.extras.get(f"{_NAME}.{name}") for name in lengths}
        return {
            f"distance between the k at '{name}' and that found": abs(float(read) - lengths[name])
            for name, read in readings.items()
            if read is not None
        }


def _set(layers: Sequence[Prefix], length: int) -> None:
    for layer in layers:
        assert layer.chosen is not None
        layer.chosen.fill_(length)


def _channels(model: nn.Module, validation: Batch, layers: Sequence[Prefix]) -> int:
    """Return the number D of channels of truncated features."""
    seen: list[int] = []
    handle = layers[0].register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0].shape[-1]))
    model(validation.inputs[:1])
    handle.remove()
    return seen[-1]


def _accuracy(model: nn.Module, validation: Batch, layers: Sequence[Prefix], length: int) -> float:
    """Return the share of labels that the model predicts with a prefix of this length."""
    _set(layers, length)
    predicted = torch.cat([model(inputs).argmax(-1) for inputs in validation.inputs.split(_AT_ONCE)])
    return float((predicted == validation.labels).double().mean())
