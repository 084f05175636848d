"""early-exits: a client trains the model to predict the next token after some of its layers, and not after all alone.

Idea: what leaves an early layer goes through the last norm and the output layer too, and its loss counts. So first
    layers can draft (decoders `dynamic-exit`, `speculative`) what all layers would write.
Equation: L = (1 - s) CE(head(h_L)) + s sum_l (l / sum_k k) CE(head(h_l)), over the exits l, later ones weigh more.
Assumes: a language model of Llama's kind; next tokens as labels.
Leaks: more terms from the same tokens; the first layers' gradients hold what the exits say.
Fails: a large share s, or very early exits, cost the whole model some loss.
Source: Elhoushi et al. 2024, arXiv 2404.16710, section 4.1.2, without its dropout of layers and schedule of exits.
"""

from __future__ import annotations

from typing import Any, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.core.blocks import blocks_of, states_in
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import ModelComponent, Objective
from fedsim.core.losses import cross_entropy
from fedsim.core.past import LayerStack, stack_of
from fedsim.core.past.stack import is_listened_to
from fedsim.core.registry import component
from fedsim.core.types import Config, Modality, PublicKnowledge

_NAME = "early-exits"
_SEVERAL = 4  # dimensions of scores of several exits


class EarlyExitsConfig(Config):
    """Settings of exits and their loss."""

    exits: tuple[int, ...] = Field(
        min_length=1, description="numbers of layers behind which a token may leave", examples=[(1,), (2, 4)]
    )
    share: float = Field(default=0.5, ge=0, lt=1, description="weight s of the exits' losses; 0: the plain loss")


@final
@component(
    _NAME,
    summary="trains early layers to predict the next token too",
    paper="2404.16710",
    fidelity="variant",
    deviates="without its dropout of layers and its schedule of exits",
)
class EarlyExits(ModelComponent[EarlyExitsConfig], Objective[EarlyExitsConfig]):
    """Has the model return the scores of each exit in training, and weighs their losses."""

    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return the model; in training it scores at every exit.

        Raises:
            NotApplicable: its layers are not known, or it has no such exits.
        """
        blocks = blocks_of(model, _NAME)
        if min(self.config.exits) < 1 or max(self.config.exits) >= len(blocks):
            raise NotApplicable(
                f"component '{_NAME}': exits = {list(self.config.exits)}, expected numbers of layers from 1 to "
                f"{len(blocks) - 1}: the model has {len(blocks)}."
            )
        stack = stack_of(model)
        if stack is None:
            raise NotApplicable(f"component '{_NAME}': the model's last norm and output layer cannot be told.")
        return Exits(model, stack, tuple(sorted(self.config.exits)))

    def objective(self, outputs: Tensor, labels: Tensor, round_: int) -> Tensor:
        """Return the weighed losses of exits (B, M, T, V), the whole model last; of plain scores (B, T, V) theirs."""
        if outputs.dim() < _SEVERAL:
            return cross_entropy(outputs, labels)
        *early, last = outputs.unbind(1)
        loss = (1 - self.config.share) * cross_entropy(last, labels)
        exits = sorted(self.config.exits)
        for number, scores in zip(exits, early, strict=True):
            loss = loss + self.config.share * number / sum(exits) * cross_entropy(scores, labels)
        return loss

    def public_view(self) -> PublicKnowledge:
        """Return the exits."""
        return PublicKnowledge(_NAME, settings=self.config.model_dump())


@final
class Exits(nn.Module):
    """A language model with exits: scores (B, M, T, V) of these and of the whole in training, else of the whole.

    Args:
        own: the model.
        stack: its layers, kept since nobody is told them while something listens to the model.
        exits: numbers of layers, ascending.
    """

    def __init__(self, module: nn.Module, stack: LayerStack, exits: tuple[int, ...]) -> None:
        super().__init__()
        self.own, self._stack = module, stack
        self._seen: dict[int, Tensor] = {}
        blocks = blocks_of(module, _NAME)
        for number in exits:
            blocks[number - 1].register_forward_hook(_Note(self._seen, number).take)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return scores."""
        if not self.training:
            return self.own(tokens)
        try:
            whole = self.own(tokens)
            return torch.stack([*(self._stack.score(self._seen[layer]) for layer in sorted(self._seen)), whole], 1)
        finally:
            self._seen.clear()

    def stack(self) -> LayerStack | None:
        """Return the layers of the model; None where something listens to it as a whole."""
        return None if is_listened_to(self) else stack_of(self.own)


@final
class _Note:
    """Keeps what leaves one block in training."""

    def __init__(self, seen: dict[int, Tensor], number: int) -> None:
        self._seen, self._number = seen, number

    def take(self, block: nn.Module, _inputs: object, output: Any) -> None:
        if block.training:
            self._seen[self._number] = states_in(output)
