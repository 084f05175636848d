"""Language models on embedding vectors in place of tokens, so that a search over text is differentiable.

A dummy text has one vector per position. Its next words are not given: the vector e of the next position represents the
next token softly, by the softmax of -|e - E_v|^2 / (temperature s^2) over tokens v, with E_v the rows of the embedding
and s^2 their mean squared norm. At the vectors of true tokens this is one-hot up to about exp(-2 / temperature): a low
temperature makes the objective zero at the truth, a high temperature smooths the search.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.core.matching.comparison import Comparison, GeneralComparison, Gradients
from attacks.core.matching.ghost import GhostComparison, agrees
from attacks.core.matching.simulated_client import SimulatedClient, simulated_client
from attacks.core.matching.unknowns import NOTHING, Values
from attacks.text._words import embedding_of
from fedsim.core.errors import NotApplicable
from fedsim.core.types import DropoutSite, Masks, Observation

Probe = tuple[Tensor, Masks, Tensor]  # dummies (2, B, places, d), their masks, and labels (2, ...)


def read_vectors(model: nn.Module, embedding: str) -> None:
    """Make a model accept vectors (B, T, d) in place of tokens (B, T), as outputs of its embedding; tokens still work.

    Args:
        model: changed permanently, by hooks.
        embedding: name of the embedding module.
    """
    given: list[Tensor] = []

    def take(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        given.clear()
        if not inputs[0].is_floating_point():
            return None
        given.append(inputs[0])
        return (torch.zeros(inputs[0].shape[:2], dtype=torch.long, device=inputs[0].device), *inputs[1:])

    model.register_forward_pre_hook(take)
    model.get_submodule(embedding).register_forward_hook(lambda _m, _i, output: given.pop() if given else output)


def client_of_vectors(observation: Observation, sites: tuple[DropoutSite, ...]) -> tuple[SimulatedClient, Tensor]:
    """Return a simulated client on vectors, without its embedding's gradient, and the embedding's weight (V, d)."""
    name, client = embedding_of(observation)[0], simulated_client(observation, sites, True)
    table = client.model.get_submodule(name).get_parameter("weight").detach()
    read_vectors(client.model, name)
    return replace(
        client, names=tuple(client_name for client_name in client.names if client_name != f"{name}.weight")
    ), table


def no_vectors(observation: Observation) -> str | None:
    """Return why vectors cannot be matched, or None: no token embedding, or only the embedding's gradient is shared."""
    try:
        name = f"{embedding_of(observation)[0]}.weight"
    except NotApplicable as reason:
        return str(reason)
    if set(observation.update.tensors) != {name}:
        return None
    return (
        f"only the gradient of '{name}' is shared, and vectors show in the gradients of later layers; attack "
        "'word-readout' reads its rows"
    )


def nearest_tokens(vectors: Tensor, table: Tensor, allowed: Tensor | None) -> Tensor:
    """Return the tokens (...) whose rows of the table (V, d) have the largest cosine with vectors (..., d).

    Args:
        vectors: vectors of positions.
        table: the embedding.
        allowed: candidate tokens, shape (K,), or None for all.
    """
    rows = table if allowed is None else table[allowed]
    chosen = (F.normalize(vectors, dim=-1) @ F.normalize(rows, dim=-1).T).argmax(-1)
    return chosen if allowed is None else allowed.to(chosen.device)[chosen]


@dataclass(frozen=True)
class NextWords:
    """The loss of a language model with vectors as next words.

    Attributes:
        table: the embedding, shape (V, d).
        tokens: tokens that may follow, shape (K,).
        temperature: temperature of the softmax, in units of the mean squared norm of the table's rows.
    """

    table: Tensor
    tokens: Tensor
    temperature: float

    def shares(self, vectors: Tensor) -> Tensor:
        """Return the probability of each token at vectors (..., d), shape (..., K)."""
        rows = self.table[self.tokens]
        scale = self.temperature * self.table.square().sum(1).mean()
        return ((2.0 * vectors @ rows.T - rows.square().sum(1)) / scale).softmax(-1)

    def loss(self, outputs: Tensor, following: Tensor, lengths: Tensor) -> Tensor:
        """Return the mean over sentences of their mean cross-entropy per token, as the clients' loss.

        Args:
            outputs: logits (B, T, V).
            following: vectors of the next positions, shape (B, T, d).
            lengths: number of tokens with a next token in each sentence, shape (B,).
        """
        return self.cross_entropy(outputs, self.weight(following, lengths)).mean()

    def weight(self, following: Tensor, lengths: Tensor) -> Tensor:
        """Return `shares` of next positions (..., T, d), divided by the sentence length (...), 0 after the end."""
        counts = torch.arange(following.shape[-2], device=following.device) < lengths[..., None]
        shares = self.shares(following)
        return shares * (counts.to(shares) / lengths[..., None])[..., None]

    def cross_entropy(self, outputs: Tensor, weighted: Tensor) -> Tensor:
        """Return each sentence's loss (...) from logits (..., T, V) and `weight` shares (..., T, K)."""
        return -(weighted * outputs.log_softmax(-1)[..., self.tokens]).sum((-2, -1))


class VectorComparison(GeneralComparison):
    """Gradients of dummies (R, B, T + 1, d), whose last position is only a next word.

    Labels are the lengths of the sentences (R, B).
    """

    name = "vectors"

    def __init__(self, client: SimulatedClient, observations: Sequence[Observation], words: NextWords) -> None:
        """Store the next-word loss."""
        super().__init__(client, observations)
        self._words = words

    def with_temperature(self, temperature: float) -> VectorComparison:
        """Return the same comparison with another temperature of next words."""
        copied = copy.copy(self)
        copied._words = replace(self._words, temperature=temperature)
        return copied

    def gradient(
        self, inputs: Tensor, masks: Masks, labels: Tensor, variables: Values, victim: int
    ) -> tuple[Tensor, ...]:
        """Return the gradient of the loss of next words."""
        outputs = self.client.outputs(inputs[:, :-1], masks, self.weights, variables)
        return self.differentiate_loss(self._words.loss(outputs, inputs[:, 1:], labels))


class VectorGhostComparison(GhostComparison):
    """The ghost version of `VectorComparison`: gradients are not materialised, all rows are computed at once."""

    name = "ghosts of vectors"

    def __init__(self, client: SimulatedClient, observations: Sequence[Observation], words: NextWords) -> None:
        """Store the next-word loss."""
        super().__init__(client, observations)
        self._words = words

    def with_temperature(self, temperature: float) -> VectorGhostComparison:
        """Return the same comparison with another temperature of next words."""
        copied = copy.copy(self)
        copied._words = replace(self._words, temperature=temperature)
        return copied

    def gradients(
        self, inputs: Tensor, masks: Masks, labels: Tensor, victims: Sequence[int], variables: Values = NOTHING
    ) -> Gradients:
        """Compare rows, as `VectorComparison` does."""
        weighted = self._words.weight(inputs[:, :, 1:], labels)
        return super().gradients(inputs[:, :, :-1], masks, weighted, victims, variables)

    def _loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return self._words.cross_entropy(outputs, labels).mean(1).sum()


def faster(general: GeneralComparison, ghost: Callable[[], GhostComparison], probe: Probe) -> Comparison:
    """Return the ghost comparison if it agrees with the general comparison on two rows, else the latter."""
    theirs = general.gradients(*probe, [0, 0])
    try:
        quick = ghost()
        is_same = agrees(quick.gradients(*probe, [0, 0]), theirs)
    except Exception:  # the general comparison handles any model
        return general
    return quick if is_same else general
