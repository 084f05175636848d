"""dp-sgd: clips each example's gradient, adds Gaussian noise to the sum, and divides by the expected batch size.

Idea: No example moves the sum by more than C, so noise of that scale hides whether a record was used.
Equation: g' = (sum over i in the batch of g_i min(1, C / ||g_i||) + N(0, (sigma C)^2 I)) / (q N)
Assumes: Poisson sampling at rate q, or full batches; a model with separable per-example gradients.
Protects: one record of a client, with an epsilon, against the server and everybody who sees the client's updates. The
    client sends the expected number of examples and a loss of 0, since the mechanism does not cover the true values.
Fails: with a small noise multiplier, and for facts that many records share.
Source: Abadi et al. 2016, arXiv 1607.00133, algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.core.hooks import IMAGES_AND_TEXT, Defense, Distortion, HookContext, Place, PublicFederation
from fedsim.core.registry import defense
from fedsim.core.types import Mechanism, MethodDescription, Modality, Tensors, Update
from fedsim.core.types.effects import ClippedParts
from fedsim.privacy.budget import Budget
from fedsim.privacy.per_example import Mode, cheapest, sum_clipped, why_inseparable
from fedsim.privacy.upload import clip_with_derivative

_PROBE = 4  # examples in the batch that tests the model


class DpSgdConfig(Budget):
    """Settings of DP-SGD."""

    clip: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="largest norm of an example's gradient over all parameters"
    )
    mode: Literal["auto", "hooks", "functorch", "ghost"] = Field(
        default="auto",
        description="how examples are clipped: hooks and functorch store each gradient, ghost only its norm; auto "
        "chooses ghost if all matrices belong to dense layers and embeddings, else hooks",
    )


@final
@defense(
    "dp-sgd",
    summary="clips each example's gradient and adds noise, with an epsilon",
    tier="core",
    paper="1607.00133",
    fidelity="reproduction",
    paper_steps=(
        ("Poisson sampling of the batch", "fedsim.scenario.data.Data._draws"),
        ("gradient of each example, clipped over all parameters", "fedsim.privacy.per_example.sum_clipped"),
        ("Gaussian noise on the sum, divided by the expected batch", "DpSgd.on_examples"),
        ("mechanism of a round", "DpSgd.mechanism"),
        ("accountant of the subsampled Gaussian mechanism", "fedsim.privacy.accounting.rdp"),
    ),
    aliases=("dpsgd",),
)
class DpSgd(Defense[DpSgdConfig]):
    """Record-level differential privacy of a client's training, also against the server."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT
    place: ClassVar[Place] = "examples"
    needs_step: ClassVar[bool] = True

    def refuses(self, federation: PublicFederation, model: nn.Module) -> str | None:
        """Return why the guarantee would not hold, or None."""
        if federation.sampling != "poisson" and federation.batch_size < federation.most_examples:
            return (
                "its accountant needs Poisson sampling, but batches are passes over the client's examples. "
                "Set federation.sampling = 'poisson', or a batch_size of at least every client's number of "
                "examples"
            )
        if federation.loss_terms:
            return f"the loss term {federation.loss_terms[0]} is not clipped. Leave it out"
        if federation.batch_readers:
            reader = federation.batch_readers[0]
            return f"{reader} works on whole batches, so examples cannot be clipped apart. Leave it out"
        if self.config.delta * federation.most_examples >= 1:
            return (
                f"delta is {self.config.delta:g}, expected below 1/{federation.most_examples}, the examples of a client"
            )
        return why_inseparable(model, federation.probe(_PROBE), self._mode(model))

    def on_examples(self, losses: Callable[[], Tensor], context: HookContext) -> tuple[float, Tensors]:
        """Return the batch's mean loss (NaN for an empty batch) and the private gradient."""
        local = context.local
        assert local is not None, "called in a local step"
        context.memory["expected"] = context.memory.get("expected", torch.zeros(())) + local.expected_batch_size
        total = {name: torch.zeros_like(p) for name, p in local.parameters.items()}
        loss = math.nan
        if len(local.batch):
            mode = self._mode(local.model)
            gradients, total = sum_clipped(local.model, local.parameters, losses, self.config.clip, mode)
            loss = float(gradients.mean())
        deviation = self._multiplier(context.federation) * self.config.clip
        add_noise = self.config.noise_adder(context)
        return loss, {name: add_noise(t, deviation) / local.expected_batch_size for name, t in total.items()}

    def on_upload(self, update: Update, context: HookContext) -> Update:
        """Return the update with the expected number of examples, a loss of 0, and buffers as received."""
        expected = round(float(context.memory.get("expected", torch.zeros(()))))
        buffers = {name: torch.zeros_like(b) for name, b in update.buffers.items()}
        return replace(update, buffers=buffers, examples=expected, loss=0.0)

    def describe_distortion(self, federation: PublicFederation, sent: Tensors) -> Distortion:
        """Return the clipping of every example, and the noise on the mean."""
        deviation = self._deviation(federation)
        return Distortion(
            change_examples=lambda gradients: self._mean(gradients, federation.batch_size),
            noise=lambda tensors: {name: t.new_ones(t.shape) * deviation for name, t in tensors.items()},
        )

    def _mean(self, gradients: Tensors, expected: int) -> Tensors:
        per_example = [{n: g[i] for n, g in gradients.items()} for i in range(len(next(iter(gradients.values()))))]
        clipped = [clip_with_derivative(gradient, self.config.clip) for gradient in per_example]
        return {name: torch.stack([gradient[name] for gradient in clipped]).sum(0) / expected for name in gradients}

    def mechanism(self, federation: PublicFederation) -> Mechanism | None:
        """Return a round's subsampled Gaussian mechanism, at the rate of the client with the fewest examples."""
        multiplier = self._multiplier(federation)
        if not multiplier:
            return None
        return Mechanism(
            unit="record",
            adjacency="add-or-remove",
            noise_multiplier=multiplier,
            sampling_rate=_rate(federation),
            steps=federation.steps,
            delta=self.config.delta,
            adversary="the server and everybody else with access to a client's updates",
        )

    def noise_deviation(self, federation: PublicFederation) -> float | None:
        """Return the standard deviation of the noise on a gradient; None for a weight delta."""
        return (self._deviation(federation) or None) if federation.algorithm == "fedsgd" else None

    def adaptive_view(self) -> MethodDescription:
        """Return clipping norm and noise; its scale on a gradient is noise_multiplier * clip / expected batch size."""
        return MethodDescription("dp-sgd", (ClippedParts(self.config.clip), *self.config.noise))

    def _deviation(self, federation: PublicFederation) -> float:
        """Return the standard deviation of the noise on the mean gradient of a step."""
        return self._multiplier(federation) * self.config.clip / federation.batch_size

    def _mode(self, model: nn.Module) -> Mode:
        return cheapest(model) if self.config.mode == "auto" else self.config.mode

    def _multiplier(self, federation: PublicFederation | None) -> float:
        if federation is None:
            return self.config.multiplier(1.0, 1, sensitivity=1.0)
        return self.config.multiplier(_rate(federation), federation.steps * federation.rounds, sensitivity=1.0)


def _rate(federation: PublicFederation) -> float:
    return min(1.0, federation.batch_size / federation.examples) if federation.sampling == "poisson" else 1.0
