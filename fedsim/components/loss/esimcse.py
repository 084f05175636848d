"""esimcse: trains sentence embeddings without labels, from two views of each sentence, one with repeated tokens.

Idea: Two views with independent dropout are a positive pair; other sentences of the batch and of a queue q are
    negatives. The queue contains outputs of a momentum encoder E' for earlier batches. Without repetition and queue it
    is SimCSE.
Equation: L_i = -log exp(cos(z1_i, z2_i) / t) / [sum_j exp(cos(z1_i, z2_j) / t) + sum_q exp(cos(z1_i, q) / t)], z1 =
    head(E(s)), z2 = head(E(s with repeated tokens)); the head (linear, tanh) is used only in training.
Assumes: a sentence encoder. The client keeps E' and the queue between steps and rounds.
Leaks: the batch's words, as every embedding does, and through the queue sentences of earlier batches.
Fails: with small batches and no queue, i.e. with few negatives.
Source: Wu et al. 2022, arXiv 2109.04380; SimCSE: Gao, Yao, Chen 2021, arXiv 2104.08821, equation 4.
"""

from __future__ import annotations

from typing import Literal, Protocol, final, runtime_checkable

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Augmentation, HookContext, LossTerm, ModelComponent, Objective, PublicFederation
from fedsim.core.nets.step_draws import get_current_draws
from fedsim.core.registry import component
from fedsim.core.types import Batch, Config, MethodDescription, Modality

_NAME = "esimcse"
_REPEATED = f"{_NAME}.repeated"
_QUEUE, _FOLLOWER = "queue", "follower."
_HEAD_STD = 0.02
_FEWEST = 2
_LEAST_PAPER = 2
_MOST_BPE = 10
_TRAINING_DIMENSIONS = 3
Mode = Literal["paper", "bpe"]


class EsimCseConfig(Config):
    """Settings of ESimCSE."""

    temperature: float = Field(default=0.05, gt=0, description="temperature t, which divides cosines")
    dup_rate: float = Field(
        default=0.32, ge=0, le=1, description="largest share of a sentence's tokens to repeat; 0: none"
    )
    mode: Mode = Field(
        default="paper",
        description="how many of N tokens are repeated, drawn uniformly; paper: 0 to max(2, int(dup_rate N)); "
        "bpe (the authors' code): 0 to min(10, int(dup_rate N)) - 1",
    )
    queue_size: int = Field(
        default=160, ge=0, description="sentences of earlier batches, as further negatives; 0: none"
    )
    momentum: float = Field(default=0.995, ge=0, lt=1, description="share of E' that is kept in each step")


@runtime_checkable
class Encoder(Protocol):
    """Interface of sentence encoders: tokens (B, T) to embeddings (B, width)."""

    width: int
    longest: int
    padding_token: int | None


@final
@component(
    _NAME,
    summary="trains sentence embeddings with repeated tokens and a queue",
    tier="research",
    paper="2109.04380",
    fidelity="reproduction",
    paper_steps=(
        ("repetition of words as the second view", "repeat"),
        ("contrastive loss with queued negatives", "contrast"),
        ("momentum encoder", "update_follower"),
        ("queue of earlier sentences", "compute_queue_loss"),
    ),
)
class EsimCse(
    ModelComponent[EsimCseConfig], Objective[EsimCseConfig], LossTerm[EsimCseConfig], Augmentation[EsimCseConfig]
):
    """Samples the repeated tokens with the batch, encodes both views, and contrasts them with batch and queue."""

    modalities = frozenset[Modality]({"text"})

    def __init__(self, config: EsimCseConfig) -> None:
        super().__init__(config)
        self.keeps_state = config.queue_size > 0

    @property
    def batch_reader(self) -> str | None:
        """Name under which the component compares each sentence with all others of its batch."""
        return _NAME

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return the encoder with a head; in training it encodes two views.

        Raises:
            NotApplicable: the model is not a sentence encoder.
        """
        if not isinstance(model, Encoder):
            raise NotApplicable(
                f"component '{_NAME}' trains encoders of sentences, but {type(model).__name__} is none. Choose model "
                "'tiny-encoder' or 'minilm'"
            )
        return TwoViews(model, self.config.mode, self.config.dup_rate, generator)

    def refuses(self, federation: PublicFederation, model: nn.Module) -> str | None:
        """Refuse batches of one without a queue, too few positions, and components that replaced the encoder."""
        views = two_views(model)
        if views is None:
            return "another component has replaced the encoder and its two views. Leave it out"
        smallest = min(federation.batch_size, federation.examples)
        if smallest < _FEWEST and not self.config.queue_size:
            return f"a sentence is compared with others of its batch, but a batch holds {smallest} and no queue is set"
        longest = federation.shape[0] + most_repeated(federation.shape[0], self.config.mode, self.config.dup_rate)
        if longest > views.longest:
            return f"a sentence with repeated tokens has up to {longest} tokens, but the model reads {views.longest}"
        return None

    def augment(self, batch: Batch, context: HookContext) -> Batch:
        """Return the batch, and store which tokens the second view repeats, boolean, shape (B, T)."""
        assert context.federation is not None
        federation, config = context.federation, self.config
        context.draws[_REPEATED] = sample_repeats(
            batch.inputs, federation.padding, federation.borders, config.mode, config.dup_rate, context.generator
        )
        return batch

    def objective(self, outputs: Tensor, labels: Tensor, round_: int) -> Tensor:
        """Return the mean loss with only the batch's sentences as negatives.

        Args:
            outputs: both views of each sentence, (B, 2, d).
            labels: unused.
            round_: unused.

        Raises:
            NotApplicable: the outputs are embeddings, as in evaluation.
        """
        if outputs.dim() != _TRAINING_DIMENSIONS:
            raise NotApplicable(f"the loss of '{_NAME}' needs two views of a sentence, which exist only in training")
        return contrast(outputs[:, 0], outputs[:, 1], self.config.temperature)

    def loss(self, model: nn.Module, batch: Batch, outputs: Tensor, context: HookContext) -> Tensor:
        """Return the queue's part of the loss, and update E' and the queue.

        Raises:
            NotApplicable: the model has no encoder with two views.
        """
        if not self.config.queue_size:
            return outputs.new_zeros(())
        views = two_views(model)
        if views is None:
            raise NotApplicable(f"component '{_NAME}' finds no encoder with two views in the model")
        queue = context.memory.get(_QUEUE, outputs.new_zeros(0, outputs.shape[-1]))
        added = compute_queue_loss(outputs[:, 0], outputs[:, 1], queue, self.config.temperature)
        context.memory.update(update_follower(views.encoder, context.memory, self.config.momentum))
        entries = torch.cat((queue, views.entries(batch.inputs, context.memory)))
        context.memory[_QUEUE] = entries[-self.config.queue_size :].clone()
        return added

    def public_description(self) -> MethodDescription:
        """Return the settings; repetition and queue are private."""
        return MethodDescription(_NAME, settings=self.config.model_dump())


@final
class TwoViews(nn.Module):
    """An encoder with a head: two views (B, 2, d) in training, plain embeddings (B, d) in evaluation.

    The second view repeats the tokens drawn for the client's step. Without draws, e.g. when an attacker runs the model,
    it is the first view, padded to the same length.

    Args:
        encoder: an `Encoder`.
        mode: rule of repetition.
        rate: largest share of repeated tokens.
        generator: random source of the head's initial weights.

    Attributes:
        longest: maximum number of tokens of the encoder.
    """

    def __init__(self, encoder: nn.Module, mode: Mode, rate: float, generator: torch.Generator) -> None:
        super().__init__()
        assert isinstance(encoder, Encoder)
        width, self.longest = encoder.width, encoder.longest
        self._padding = 0 if encoder.padding_token is None else encoder.padding_token
        self.encoder: nn.Module = encoder
        self.head = nn.Sequential(nn.Linear(width, width), nn.Tanh())
        layer = self.head[0]
        assert isinstance(layer, nn.Linear)
        nn.init.normal_(layer.weight, std=_HEAD_STD, generator=generator)
        nn.init.zeros_(layer.bias)
        self._mode: Mode = mode
        self._rate = rate

    def forward(self, tokens: Tensor) -> Tensor:
        """Return both views in training, embeddings in evaluation."""
        if not self.training:
            return self.encoder(tokens)
        places = get_current_draws().get(_REPEATED, torch.zeros_like(tokens, dtype=torch.bool))
        longest = most_repeated(tokens.shape[1], self._mode, self._rate)
        views = (tokens, repeat(tokens, places, longest, self._padding))
        return torch.stack([self.head(self.encoder(view)) for view in views], 1)

    @torch.no_grad()
    def entries(self, tokens: Tensor, memory: dict[str, Tensor]) -> Tensor:
        """Return the outputs of E' and the current head for sentences (B, T), without dropout, shape (B, d)."""
        follower = {name.removeprefix(_FOLLOWER): t for name, t in memory.items() if name.startswith(_FOLLOWER)}
        was_training = self.encoder.training
        self.encoder.eval()
        embeddings = torch.func.functional_call(self.encoder, follower, (tokens,))
        self.encoder.train(was_training)
        return self.head(embeddings)


def most_repeated(length: int, mode: Mode, rate: float) -> int:
    """Return the maximum number of repeated tokens of a sentence of `length` tokens, including borders; at least 0."""
    share = int(rate * length)
    if not rate:
        return 0
    return max(_LEAST_PAPER, share) if mode == "paper" else max(0, min(_MOST_BPE, share) - 1)


def sample_repeats(
    tokens: Tensor, padding: int | None, borders: tuple[int, ...], mode: Mode, rate: float, generator: torch.Generator
) -> Tensor:
    """Sample the tokens to repeat: first their number, then distinct positions, both uniformly.

    Args:
        tokens: sentences (B, T).
        padding: padding token, which is never repeated.
        borders: tokens that are not repeated either, but count in the length.
        mode: rule of repetition.
        rate: largest share of repeated tokens.
        generator: random source.

    Returns:
        Boolean, shape (B, T). A sentence with too few words repeats all of them.
    """
    is_padding = tokens == (-1 if padding is None else padding)
    is_word = ~(is_padding | torch.isin(tokens, torch.tensor(borders, dtype=tokens.dtype)))
    longest = torch.tensor([most_repeated(length, mode, rate) for length in (~is_padding).sum(1).tolist()])
    numbers = (torch.rand(len(tokens), generator=generator, dtype=torch.float64) * (longest + 1)).long()
    order = torch.rand(tokens.shape, generator=generator, dtype=torch.float64).masked_fill(~is_word, torch.inf)
    return (order.argsort(1).argsort(1) < numbers[:, None]) & is_word


def repeat(tokens: Tensor, places: Tensor, repeats: int, padding: int) -> Tensor:
    """Return sentences (B, T) with the marked tokens (B, T) doubled, padded to (B, T + more)."""
    ends = (1 + places.long()).cumsum(1)
    targets = torch.arange(tokens.shape[1] + repeats).expand(len(tokens), -1).contiguous()
    sources = torch.searchsorted(ends, targets, right=True)
    return F.pad(tokens, (0, 1), value=padding).gather(1, sources)


def contrast(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Return the mean over i of -log softmax_j(cos(first_i, second_j) / t) at j = i, of projections (B, d)."""
    return F.cross_entropy(_scores(first, second, temperature), torch.arange(len(first), device=first.device))


def compute_queue_loss(first: Tensor, second: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Return the loss that queued negatives (M, d) add to `contrast`: mean log(1 + their sum / the batch's sum)."""
    if not len(queue):
        return first.new_zeros(())
    batch = _scores(first, second, temperature).logsumexp(1)
    return F.softplus(_scores(first, queue, temperature).logsumexp(1) - batch).mean()


def update_follower(encoder: nn.Module, memory: dict[str, Tensor], momentum: float) -> dict[str, Tensor]:
    """Return the weights of E' after a step, by their names in the memory; they start as copies of the encoder's."""
    followers = {f"{_FOLLOWER}{name}": p.detach() for name, p in encoder.named_parameters() if p.requires_grad}
    return {
        name: torch.lerp(p, memory[name], momentum) if name in memory else p.clone() for name, p in followers.items()
    }


def two_views(model: nn.Module) -> TwoViews | None:
    """Return the `TwoViews` module of a model, or None."""
    return next((module for module in model.modules() if isinstance(module, TwoViews)), None)


def _scores(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    return F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).mT / temperature
