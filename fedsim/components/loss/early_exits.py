"""early-exits: trains the model to predict the next token after some early layers too.

Idea: outputs of an early layer also pass through the last norm and the output layer, with their own loss. So early
    layers can draft (decoders `dynamic-exit`, `speculative`) the tokens of the whole model.
Equation: L = (1 - s) CE(head(h_L)) + s sum_l (l / sum_k k) CE(head(h_l)), over the exits l of the round; later exits
    have larger weights; a text skips layer l of 0 .. L - 1 with probability p (2^(l / (L - 1)) - 1).
Assumes: a language model of Llama's kind; next tokens as labels.
Leaks: additional gradient terms from the same tokens; the first layers' gradients include those of the exits.
Fails: a large share s, or very early exits, increase the loss of the whole model.
Source: Elhoushi et al. 2024, arXiv 2404.16710, section 4.1; exits are chosen here, and rounds replace its steps.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.core.blocks import blocks_of, states_in, with_states
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import ModelComponent, Objective
from fedsim.core.nets.kv_cache import LayerStack, stack_of
from fedsim.core.nets.kv_cache.stack import is_listened_to
from fedsim.core.nets.losses import cross_entropy
from fedsim.core.registry import component
from fedsim.core.types import Config, MethodDescription, Modality

_NAME = "early-exits"
_SEVERAL = 4  # dimensions of the scores of several exits


class EarlyExitsConfig(Config):
    """Settings of exits and their loss."""

    exits: tuple[int, ...] = Field(
        min_length=1, description="numbers of layers behind which a token may leave", examples=[(1,), (2, 4)]
    )
    share: float = Field(default=0.5, ge=0, lt=1, description="weight s of the exits' losses; 0: the plain loss")
    layer_dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="p, probability that a text skips the last layer; smaller for earlier layers",
    )
    schedule: Literal["all", "rotating", "gradual"] = Field(
        default="all",
        description="exits trained in a round: all; a single exit in turn; or the last exits, growing by 1 each time",
    )
    stage_rounds: int = Field(default=1, ge=1, description="rounds after which the schedule goes on")

    def active(self, round_: int) -> tuple[int, ...]:
        """Return the exits whose losses count in a round, from 1."""
        exits, turn = sorted(self.exits), (round_ - 1) // self.stage_rounds
        if self.schedule == "rotating":
            return (exits[turn % len(exits)],)
        return tuple(exits) if self.schedule == "all" else tuple(exits[-(turn + 1) :])


@final
@component(
    _NAME,
    summary="trains early layers to predict the next token too",
    tier="research",
    paper="2404.16710",
    fidelity="variant",
    deviates="weights grow linearly with depth, not quadratically; exits are chosen; schedule counts rounds; "
    "layer dropout does not ramp up",
    paper_steps=(
        ("loss of every exit, weighted more for later exits", "EarlyExits.objective"),
        ("dropout of layers that grows with depth", "skip_chances"),
        ("weights that grow quadratically with depth", ""),
        ("layer dropout that ramps up over training", ""),
        ("curriculum of exits", "EarlyExitsConfig.active"),
    ),
)
class EarlyExits(ModelComponent[EarlyExitsConfig], Objective[EarlyExitsConfig]):
    """Returns the scores of each exit in training, and weights their losses."""

    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return the model; in training it computes scores at each exit.

        Raises:
            NotApplicable: the model's layers are unknown, or an exit is out of range.
        """
        blocks = blocks_of(model, _NAME)
        if min(self.config.exits) < 1 or max(self.config.exits) >= len(blocks):
            raise NotApplicable(
                f"component '{_NAME}': exits = {list(self.config.exits)}, expected numbers of layers from 1 to "
                f"{len(blocks) - 1}: the model has {len(blocks)}."
            )
        stack = stack_of(model)
        if stack is None:
            raise NotApplicable(f"component '{_NAME}': the model's last norm and output layer were not found.")
        for block, chance in zip(blocks, skip_chances(len(blocks), self.config.layer_dropout), strict=True):
            if chance:
                block.register_forward_hook(partial(_skip, chance=chance))
        return Exits(model, stack, tuple(sorted(self.config.exits)))

    def objective(self, outputs: Tensor, labels: Tensor, round_: int) -> Tensor:
        """Return the weighted loss of exits (B, M, T, V), the whole model last; for scores (B, T, V) the plain loss.

        Args:
            outputs: scores of all exits, including those inactive in this round.
            labels: next tokens (B, T).
            round_: number of the round, from 1.
        """
        if outputs.dim() < _SEVERAL:
            return cross_entropy(outputs, labels)
        *early, last = outputs.unbind(1)
        loss = (1 - self.config.share) * cross_entropy(last, labels)
        active = self.config.active(round_)
        for number, scores in zip(sorted(self.config.exits), early, strict=True):
            if number in active:
                loss = loss + self.config.share * number / sum(active) * cross_entropy(scores, labels)
        return loss

    def public_description(self) -> MethodDescription:
        """Return the exits."""
        return MethodDescription(_NAME, settings=self.config.model_dump())


def skip_chances(depth: int, highest: float) -> tuple[float, ...]:
    """Return the probability that a text skips each of `depth` layers: 0 for the first, `highest` for the last."""
    return tuple(highest * (2 ** (layer / max(depth - 1, 1)) - 1) for layer in range(depth))


def _skip(block: nn.Module, inputs: tuple[Any, ...], output: Any, *, chance: float) -> Any:
    """Return the block's output, with its input for texts that skip it; the draws are recorded as a dropout mask."""
    if not block.training:
        return None
    before: Tensor = inputs[0]
    runs = (1 - chance) * nn.functional.dropout(before.new_ones(len(before), 1, 1), chance)
    return with_states(output, before + runs * (states_in(output) - before))


@final
class Exits(nn.Module):
    """A language model with exits: scores (B, M, T, V) of exits and whole model in training, else scores (B, T, V).

    Args:
        module: the model.
        stack: its layers, stored because `stack_of` returns None while hooks are registered.
        exits: layer numbers, ascending.
    """

    def __init__(self, module: nn.Module, stack: LayerStack, exits: tuple[int, ...]) -> None:
        super().__init__()
        self.own, self._stack = module, stack
        self._seen: dict[int, Tensor] = {}
        blocks = blocks_of(module, _NAME)
        for number in exits:
            blocks[number - 1].register_forward_hook(_Note(self._seen, number).take)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the scores."""
        if not self.training:
            return self.own(tokens)
        try:
            whole = self.own(tokens)
            return torch.stack([*(self._stack.score(self._seen[layer]) for layer in sorted(self._seen)), whole], 1)
        finally:
            self._seen.clear()

    def stack(self) -> LayerStack | None:
        """Return the model's layers; None while a hook observes the model as a whole."""
        return None if is_listened_to(self) else stack_of(self.own)


@final
class _Note:
    """Stores the output of one block in training."""

    def __init__(self, seen: dict[int, Tensor], number: int) -> None:
        self._seen, self._number = seen, number

    def take(self, block: nn.Module, _inputs: object, output: Any) -> None:
        if block.training:
            self._seen[self._number] = states_in(output)
