"""co-teaching: trains two networks, each on the examples with small loss under the other network.

Idea: A small loss suggests a correct label, and a network that does not select its own examples does not reinforce its
    own errors. Each network scores one half of the batch in evaluation mode; evaluation averages both logits.
Equation: I_1: the floor((1 - tau) n) examples of half 1 with the smallest loss under network 1; I_2 of half 2 under
    network 2; L = mean CE(network 1 on I_2) + mean CE(network 2 on I_1); tau(e) rises from 0 to tau over the first
    rounds e.
Assumes: classification, a label per example.
Leaks: excluded records contribute no gradient; a record used by both networks contributes two sets of equations.
Fails: as a defense: selected records leak as without it.
Source: Han et al. 2018, arXiv 1804.06872, where both score the same batch; Chen et al. 2022, arXiv 2206.13140.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Literal, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.core.feature_prefix import Alternating, prefixes
from fedsim.core.foreign import pytorch
from fedsim.core.hooks import IMAGES_AND_TEXT, ModelComponent, Objective, PublicFederation
from fedsim.core.nets.losses import cross_entropy
from fedsim.core.nets.masks import disable_dropout
from fedsim.core.registry import component
from fedsim.core.types import Batch, Config, Modality

_NAME = "co-teaching"
_ROUNDING = 1e-9
_ONE_ANSWER = 2
BatchNorm = pytorch.BatchNorm


class CoTeachingConfig(Config):
    """Settings of Co-teaching."""

    forget_rate: float = Field(default=0.2, ge=0, lt=1, description="share tau of the examples that are left out")
    separate: int = Field(
        default=0, ge=0, description="rounds of a first stage, in which each network learns from the whole batch"
    )
    ramp: int = Field(
        default=0, ge=0, description="rounds over which this share then grows from 0 to tau; 0: tau at once"
    )
    same_batch: bool = Field(
        default=False, description="both networks score and learn from the whole batch; else each from a half"
    )
    freeze_batch_norm: bool = Field(
        default=True,
        description="after the first stage, batch normalisation keeps its statistics and does not train its weights",
    )
    second_rate: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="learning rate of the second stage relative to the first's, as a factor of the loss, so for SGD",
    )


@final
@component(
    _NAME,
    summary="trains two networks that choose each other's examples by small loss",
    tier="research",
    paper="2206.13140",
    fidelity="variant",
    deviates="the second stage's learning rate is a factor of the loss, so for SGD; the last checkpoint counts",
    paper_steps=(
        ("each network learns from the other's small losses", "CoTeaching.objective"),
        ("first stage: two networks trained apart", "CoTeaching.objective"),
        ("forget rate rises over the first rounds", "CoTeaching.rate"),
        ("batch norm trained in the first stage and frozen in the second", "CoTeaching.after_round"),
        ("lower learning rate in the second stage", "CoTeaching.objective"),
        (
            "k of the highest validation accuracy of the mean logits",
            "fedsim.components.layer.nested_dropout.NestedDropout.after_round",
        ),
    ),
)
class CoTeaching(ModelComponent[CoTeachingConfig], Objective[CoTeachingConfig]):
    """Duplicates the model and trains each network on the other's selection: outputs (B, 4, K) in training."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return a pair of networks; the weights of the second are permuted copies of the first's."""
        second = copy.deepcopy(model)
        with torch.no_grad():
            for weights in second.parameters():
                order = torch.randperm(weights.numel(), generator=generator)
                weights.copy_(weights.flatten()[order].view_as(weights))
        frozen = "never" if not self.config.freeze_batch_norm else "later" if self.config.separate else "always"
        return NetworkPair(model, second, frozen)

    def after_round(self, model: nn.Module, round_: int, validation: Batch) -> None:
        """Freeze batch normalisation when the first stage ends."""
        if isinstance(model, NetworkPair) and round_ >= self.config.separate:
            model.freeze()

    def refuses(self, federation: PublicFederation, model: nn.Module) -> str | None:
        """Refuse components around the pair, batches without a selected example, and layers that mix both halves."""
        reason = self._refuses_networks(federation, model)
        if reason is not None:
            return reason
        parts = (federation.batch_size,) if self.config.same_batch else halves(federation.batch_size)
        if not parts[0]:
            return "each network scores a half of the batch, but a batch holds 1. Set same_batch = true"
        if not count_kept(parts[0], self.config.forget_rate):
            return f"forget_rate {self.config.forget_rate:g} leaves none of {parts[0]} examples. Lower it"
        mixing = next((name for name, module in model.named_modules() if isinstance(module, BatchNorm)), None)
        if mixing is not None and not (self.config.freeze_batch_norm or self.config.same_batch):
            return f"'{mixing}' would mix the two halves of the batch. Set freeze_batch_norm = true"
        return None

    def _refuses_networks(self, federation: PublicFederation, model: nn.Module) -> str | None:
        if not isinstance(model, NetworkPair) or model.differ():
            return "components that change the model must come before it, so that both networks have them"
        if any(isinstance(module, Alternating) for module in model.modules()):
            return "each network would toss its own coin for nested-dropout's alternate_with. Leave that setting out"
        with torch.no_grad(), disable_dropout():
            answers = model.first(federation.probe(2).inputs)
        if answers.shape != (2, federation.classes):
            expected = f"an answer per example, (examples, {federation.classes} classes)"
            return f"each network must return {expected}, but a network returns {tuple(answers.shape)}"
        return None

    def objective(self, outputs: Tensor, labels: Tensor, round_: int) -> Tensor:
        """Return the sum of both networks' mean losses on the examples that the other network selected.

        Args:
            outputs: training logits of networks 1 and 2, then scoring logits, (B, 4, K); in evaluation (B, K).
            labels: classes (B,), or probabilities (B, K).
            round_: number of the round, from 1.
        """
        if outputs.dim() == _ONE_ANSWER:
            return cross_entropy(outputs, labels)
        first, second, scores_1, scores_2 = outputs.unbind(1)
        if round_ <= self.config.separate:
            return cross_entropy(first, labels) + cross_entropy(second, labels)
        rate, middle = self.rate(round_), halves(len(outputs))[0]
        half, two = (slice(None), slice(None)) if self.config.same_batch else (slice(middle), slice(middle, None))
        chosen_1 = small_losses(scores_1[half], labels[half], rate)
        chosen_2 = small_losses(scores_2[two], labels[two], rate)
        loss = _mean(first[two][chosen_2], labels[two][chosen_2])
        return self.config.second_rate * (loss + _mean(second[half][chosen_1], labels[half][chosen_1]))

    def rate(self, round_: int) -> float:
        """Return tau of a round (from 1) of the second stage: `ramp` evenly spaced values from 0 to tau, then tau."""
        ramp, epoch = self.config.ramp, round_ - 1 - self.config.separate
        return self.config.forget_rate if epoch >= ramp else self.config.forget_rate * epoch / max(1, ramp - 1)


@final
class NetworkPair(nn.Module):
    """Two networks: (B, 4, K) in training (training logits, then scoring logits); in evaluation their mean (B, K).

    Args:
        first: network 1.
        second: network 2, with the same architecture; prefix layers use the prefix of network 1.
        frozen: when batch normalisation is constant: never, always, or later, from `freeze` on.

    Attributes:
        is_frozen: 1 if batch normalisation is constant, a scalar that the server sends with the weights; None unless
            it is frozen later.
    """

    is_frozen: Tensor | None

    def __init__(self, first: nn.Module, second: nn.Module, frozen: Literal["never", "always", "later"]) -> None:
        super().__init__()
        self.first, self.second = first, second
        self._frozen = frozen
        self.register_buffer("is_frozen", torch.zeros(()) if frozen == "later" else None)
        for leader, follower in zip(prefixes(first), prefixes(second), strict=True):
            follower.follow(leader)
        if frozen == "always":
            for layer in self._constant_layers():
                layer.requires_grad_(False)

    def freeze(self) -> None:
        """Make batch normalisation constant, if it is frozen later."""
        if self.is_frozen is not None:
            self.is_frozen.fill_(1)

    def differ(self) -> bool:
        """Return whether the networks' architectures differ."""
        first, second = ([type(module) for module in net.modules()] for net in (self.first, self.second))
        return first != second

    def train(self, mode: bool = True) -> NetworkPair:
        """Set the mode of all layers except frozen ones."""
        super().train(mode)
        for layer in self._constant_layers():
            layer.eval()
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        """Return both networks' mean; in training (B, 4, ...): training logits of both, then scoring logits."""
        networks = (self.first, self.second)
        if not self.training:
            return torch.stack([network(inputs) for network in networks]).mean(0)
        self.train()  # weights with another `is_frozen` may have been loaded since
        with _without_gradients(self._constant_layers()):
            learning = [network(inputs) for network in networks]
        self.eval()
        with torch.no_grad():
            scoring = [network(inputs) for network in networks]
        self.train()
        return torch.stack([*learning, *scoring], 1)

    def _constant_layers(self) -> list[nn.Module]:
        is_frozen = self._frozen == "always" or (self.is_frozen is not None and bool(self.is_frozen))
        return [module for module in self.modules() if is_frozen and isinstance(module, BatchNorm)]


@contextmanager
def _without_gradients(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Treat weights of layers as constants in a forward pass."""
    trained = [weights for layer in layers for weights in layer.parameters() if weights.requires_grad]
    for weights in trained:
        weights.requires_grad_(False)
    try:
        yield
    finally:
        for weights in trained:
            weights.requires_grad_(True)


def halves(examples: int) -> tuple[int, int]:
    """Return the numbers of examples that networks 1 and 2 score."""
    return examples // 2, examples - examples // 2


def count_kept(examples: int, rate: float) -> int:
    """Return the number of selected examples, floor((1 - tau) n)."""
    return math.floor((1.0 - rate) * examples + _ROUNDING)


def small_losses(logits: Tensor, labels: Tensor, rate: float) -> Tensor:
    """Return the indices of the floor((1 - tau) n) smallest losses among logits (n, K), in ascending order of loss."""
    losses = F.cross_entropy(logits.detach(), labels, reduction="none")
    return losses.argsort(stable=True)[: count_kept(len(losses), rate)]


def _mean(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean loss; 0 if no example was selected, as in a small last batch."""
    return cross_entropy(logits, labels) if len(logits) else logits.sum()
