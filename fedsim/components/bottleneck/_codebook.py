"""Codebook layer: replaces the activation at each position by its k most similar codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.core.errors import NotApplicable

Similarity = Literal["dot", "cosine", "euclid"]
Combine = Literal["mean", "sum"]
CodeLoss = Literal["base", "aeloss", "vqvae", "fullaeloss"]
Ranking = Callable[[Tensor], Tensor]

_FEATURE_MAP = 4  # dimensions of (B, channels, height, width)
_SHORTEST = 1e-12


class CodebookLayer(nn.Module):
    """Quantises activations (B, ..., d), or each position of maps (B, d, H, W), in groups of d / groups entries.

    Attributes:
        codes: shape (groups, C, d / groups).
        place: name of the module with the quantised output or input.
        active: number k of codes per position at the current training step.
        enabled: if false, activations pass unchanged.
        rankings: functions that change the similarities (B, ..., groups, C) before the codes are selected.
        silent: boolean masks (groups, C) of codes that contribute zero where they are selected.
        readers: lists to which each forward pass appends the selected codes (B, ..., groups, k), in ascending order,
            with -1 for silent codes.
    """

    idle: Tensor
    steps: Tensor

    def __init__(
        self,
        place: str,
        width: int,
        *,
        codes: int,
        active: int,
        first_active: int | None,
        decay_steps: int,
        groups: int,
        similarity: Similarity,
        combine: Combine,
        loss: CodeLoss,
        beta: float,
        penalty: float,
        penalty_norm: float,
        revive_after: int,
        revive_noise: float,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.place, self.width = place, width
        self._last_active, self._first_active, self._decay_steps = active, first_active, decay_steps
        self.similarity, self.combine, self.loss, self.beta = similarity, combine, loss, beta
        self.penalty, self.penalty_norm = penalty, penalty_norm
        self.revive_after, self.revive_noise = revive_after, revive_noise
        self.codes = nn.Parameter(torch.randn(groups, codes, width // groups, generator=generator))
        self.scale = nn.Parameter(torch.ones(groups, width // groups))
        self.shift = nn.Parameter(torch.zeros(groups, width // groups))
        if revive_after:
            self.register_buffer("idle", torch.zeros(groups, codes))
        if first_active is not None:
            self.register_buffer("steps", torch.zeros(()))
        self.enabled = True
        self.rankings: list[Ranking] = []
        self.silent: list[Tensor] = []
        self.readers: list[list[Tensor]] = []

    def forward(self, activation: Tensor) -> Tensor:
        if not self.enabled:
            return activation
        inputs = self.normalise(activation)
        chosen = self.select_codes(inputs.detach())
        for reader in self.readers:
            reader.append(chosen.masked_fill(~self._is_heard(chosen), -1) if self.silent else chosen)
        if self.revive_after and self.training:
            self._revive(inputs.detach(), chosen)
        if self._first_active is not None and self.training and self._is_trained:
            self.steps.add_(1.0)
        output = _StraightThrough.apply(inputs, self.combine_codes(chosen), self.loss, self.beta).flatten(-2)
        return output.movedim(-1, 1) if activation.dim() == _FEATURE_MAP else output

    @property
    def active(self) -> int:
        """Current k: falls from `first_active` to its last value within `decay_steps` training steps.

        The step count is a buffer, which is sent and averaged like the weights.
        """
        if self._first_active is None:
            return self._last_active
        return active_codes(round(float(self.steps)), self._first_active, self._last_active, self._decay_steps)

    def normalise(self, activation: Tensor) -> Tensor:
        """Return the LayerNorm of each group (the input of the similarity), shape (B, ..., groups, d / groups).

        Raises:
            NotApplicable: the activation's width differs from the codebook's.
        """
        features = activation.movedim(1, -1) if activation.dim() == _FEATURE_MAP else activation
        if features.shape[-1] != self.width:
            raise NotApplicable(
                f"its codes have {self.width} entries, but the activation of '{self.place}' has {features.shape[-1]}"
            )
        grouped = features.unflatten(-1, self.scale.shape)
        return F.layer_norm(grouped, grouped.shape[-1:]) * self.scale + self.shift

    def select_codes(self, inputs: Tensor) -> Tensor:
        """Return the k most similar codes per position and group, in ascending order; ties go to the lower code."""
        ranked = self.similarities(inputs)
        for change in self.rankings:
            ranked = change(ranked)
        best, active = ranked.argmax(-1, keepdim=True), self.active
        if active == 1:
            return best
        left = ranked.flatten(0, -2).clone()
        rows, best_first = torch.arange(len(left), device=left.device), [best.flatten()]
        for _ in range(active - 1):  # topk guarantees no order among equal values
            left[rows, best_first[-1]] = -torch.inf
            best_first.append(left.argmax(-1))
        return torch.stack(best_first, -1).sort(-1).values.view(*best.shape[:-1], active)

    def similarities(self, inputs: Tensor) -> Tensor:
        """Return similarities (B, ..., groups, C): product with the normalised code, or the negative distance."""
        codes = self.codes.detach()
        if self.similarity == "euclid":  # -||a - e||^2 / 2 without ||a||^2, which is equal for all codes
            return _products(inputs, codes) - 0.5 * codes.square().sum(-1)
        if self.similarity == "cosine":
            inputs = inputs / inputs.norm(dim=-1, keepdim=True).clamp_min(_SHORTEST)
        return _products(inputs, codes / codes.norm(dim=-1, keepdim=True).clamp_min(_SHORTEST))

    def combine_codes(self, chosen: Tensor) -> Tensor:
        """Return the mean or sum of the selected codes (B, ..., groups, k), shape (B, ..., groups, d / groups)."""
        groups, count, _ = self.codes.shape
        rows = chosen + count * torch.arange(groups, device=chosen.device)[:, None]
        codes = self.codes
        if self.penalty:
            codes = _Penalised.apply(codes, find_fired_codes(chosen, groups, count), self.penalty, self.penalty_norm)
        picked = F.embedding(rows, codes.flatten(0, 1))
        if self.silent:
            picked = picked * self._is_heard(chosen)[..., None]
        return picked.mean(-2) if self.combine == "mean" else picked.sum(-2)

    def _is_heard(self, chosen: Tensor) -> Tensor:
        """Return a mask of the selected codes (B, ..., groups, k) that are not silent."""
        silent = torch.stack(self.silent).any(0)
        return ~silent[torch.arange(len(silent))[:, None], chosen]

    @property
    def _is_trained(self) -> bool:
        """Whether the codes are trained parameters, not tensors injected by an attacker's functional call."""
        return isinstance(self.codes, nn.Parameter) and self.codes.requires_grad

    @torch.no_grad()
    def _revive(self, inputs: Tensor, chosen: Tensor) -> None:
        """Count the steps since each code fired, and move codes unused for `revive_after` steps onto activations."""
        groups, count, size = self.codes.shape
        fired = find_fired_codes(chosen, groups, count)
        self.idle.add_(1.0).masked_fill_(fired, 0.0)
        if not self._is_trained:
            return
        dead = self.idle >= self.revive_after
        examples = inputs.reshape(-1, groups, size)
        for group, code in dead.nonzero().tolist():
            example = examples[int(torch.randint(len(examples), ())), group]
            noise = torch.randn_like(example) * example.norm() * self.revive_noise
            self.codes.data[group, code] = example + noise
        self.idle.masked_fill_(dead, 0.0)


class _StraightThrough(torch.autograd.Function):
    """Combined codes with a straight-through gradient to the inputs; the codes get the gradient of their own loss.

    With gap = o - a: dL/da = dL/do - 2 beta gap (commitment). Codes get dL/do (task) plus 2 gap / n, from the mean
    squared gap over n positions (reconstruction). Differentiable twice, because gradient inversion differentiates
    gradients.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(inputs: Tensor, output: Tensor, loss: CodeLoss, beta: float) -> Tensor:
        return output.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.loss, ctx.beta = inputs[2:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (gradient,) = gradients
        if ctx.loss == "base":
            return gradient, gradient, None, None
        inputs, output = ctx.saved_tensors
        gap = output - inputs
        reconstruction = 2.0 * gap / gap.shape[:-2].numel()
        to_codes = reconstruction if ctx.loss == "vqvae" else gradient + reconstruction
        to_inputs = gradient if ctx.loss == "aeloss" else gradient - 2.0 * ctx.beta * gap
        return to_inputs, to_codes, None, None


class _Penalised(torch.autograd.Function):
    """Codes whose gradient includes that of w times the sum of ||e_c||_p over codes c that fired."""

    generate_vmap_rule = True

    @staticmethod
    def forward(codes: Tensor, fired: Tensor, weight: float, power: float) -> Tensor:
        return codes.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.weight, ctx.power = inputs[2:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = gradients
        codes, fired = ctx.saved_tensors
        lengths = codes.norm(ctx.power, dim=-1, keepdim=True).clamp_min(_SHORTEST)
        direction = codes.sign() * (codes.abs() / lengths) ** (ctx.power - 1.0)
        return gradient + ctx.weight * fired[..., None] * direction, None, None, None


def active_codes(step: int, first: int, last: int, decay_steps: int) -> int:
    """Return k at a step (from 0): falls linearly from `first` to `last` in `decay_steps` steps, rounded down."""
    return int(first - (first - last) * min(1.0, step / (decay_steps - 1)))


def find_fired_codes(chosen: Tensor, groups: int, codes: int) -> Tensor:
    """Return which codes are among the selected ones (..., groups, k), boolean, shape (groups, codes)."""
    by_group = chosen.movedim(-2, 0).reshape(groups, -1)
    return torch.zeros(groups, codes, dtype=torch.bool).scatter(1, by_group, True)


def _products(inputs: Tensor, codes: Tensor) -> Tensor:
    return torch.einsum("...gw,gcw->...gc", inputs, codes)
