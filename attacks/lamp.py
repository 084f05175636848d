"""LAMP: a text whose gradient points where the observed one does, found by descent and by moving words in turn.

Paper: Balunovic et al. 2022, arXiv 2202.08827: min over x of 1 - mean_l cos(g_l, g*_l) + c (|x| / |E| - 1)^2, with |x|
the mean norm of the vectors and |E| that of the embedding's rows. Every so often words are swapped, moved alone or as a
span, or a beginning is put behind the end, and what lowers gradient distance plus language-model loss stays. It starts
from the best of random drafts and of permutations of the best.
Threat model: honest-but-curious server, one gradient. The language model is the received one itself. Its loss counts in
proportion to how far it is below that of guessing: an untrained model has no say. Lengths are read off the gradient,
not given. Unknown dropout masks are searched with the text, which the paper does not do. Nor does it go on at the end
with tokens in place of vectors: words are moved, and changed for others that were read, as long as the gradient comes
closer.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple, final

import torch
from pydantic import Field
from torch import Tensor

from attacks._comparison import Gradients
from attacks._engine import Found, Pace, Search, descend
from attacks._masking import Masking, OptimisedMasks
from attacks._text_matching import Task, TextMatching, TextMatchingConfig
from attacks._vectors import nearest_tokens
from fedsim.losses import IGNORED, cross_entropy
from fedsim.masks import without_dropout
from fedsim.registry import attack
from fedsim.types import Masks, OnStep, Step

_TINY = 1e-30


class LampConfig(TextMatchingConfig):
    """Settings of LAMP."""

    iterations: int = Field(default=2000, ge=1, description="of the descent, altogether")
    learning_rate: float = Field(
        default=1.0, gt=0, description="Adam's first step, in root mean square entries of the embedding"
    )
    decay: float = Field(default=0.89, gt=0, le=1, description="factor of the step every 50 iterations")
    norm_weight: float = Field(default=1.0, ge=0, description="weight c of the regulariser of the vectors' norms")
    drafts: int = Field(default=500, ge=1, description="random drafts, and as many permutations of the best one")
    every: int = Field(default=75, ge=1, description="iterations between moves of words")
    burn_in: float = Field(default=0.1, ge=0, le=1, description="share of the iterations before the first moves")
    candidates: int = Field(default=200, ge=1, description="orders of a sentence that are tried each time")
    finishing: int = Field(
        default=10, ge=0, description="at the end: most times that words of all sentences are changed and moved"
    )
    language_weight: float = Field(default=0.2, ge=0, description="weight of the language model's loss of an order")


class _Place(NamedTuple):
    """Where the search stands: a dummy (B, places, d), and the masks of its forward passes."""

    inputs: Tensor
    masks: Masks


@final
@attack("lamp", summary="text by descent and by moving words (LAMP)", paper="2202.08827")
class Lamp(TextMatching[LampConfig]):
    """Descends and moves words in turn."""

    @classmethod
    def within(cls, gradients: int) -> dict[str, Any]:
        """Return settings with about so many gradients in descent, drafts and moves, beside a last search."""
        turns = 10
        iterations = max(1, gradients // 3)
        candidates = max(1, gradients // (3 * turns))
        return {
            "iterations": iterations,
            "every": max(1, iterations // turns),
            "drafts": max(1, gradients // 6),
            "candidates": candidates,
            "finishing": 5,
        }

    def rows(self, task: Task, generator: torch.Generator, on_step: OnStep) -> list[Found]:
        """Return the best of all that the descent and the moves came by."""
        config = self.config
        place = self._draft(task, generator)
        found = Found(0, 0, place.inputs, place.masks)
        while (done := len(found.objectives)) < config.iterations:
            count = min(config.every, config.iterations - done)
            turn = self._descent(task, place, done, count, generator, _later(on_step, found, config.iterations))
            if turn.objective < found.objective:
                found.inputs, found.masks = turn.inputs, turn.masks
                found.objective, found.iteration = turn.objective, done + turn.iteration
            found.objectives += turn.objectives
            if turn.iteration == 0:
                found.stopped = turn.stopped
                break
            place = _Place(turn.inputs, turn.masks or place.masks)
            if done + count >= config.burn_in * config.iterations:
                place = self._moved(task, place, generator)
        return [self.finished(task, found, place.masks, generator)]

    def distance(self, gradients: Gradients) -> Tensor:
        """Return 1 - the mean over tensors of their cosines, shape (R,), however small a tensor's gradient is."""
        norms = gradients.squared().sqrt() * gradients.observed().sqrt()
        return 1.0 - (gradients.inner() / norms.clamp_min(_TINY)).mean(1)

    def prior(self, task: Task, inputs: Tensor) -> Tensor:
        """Return the regulariser of the norms of the vectors (R, B, places, d) of a sentence, shape (R,)."""
        usual = task.table.norm(dim=1).mean()
        return self.config.norm_weight * (inputs.norm(dim=-1).mean((1, 2)) / usual - 1.0).square()

    def _descent(
        self, task: Task, place: _Place, done: int, count: int, generator: torch.Generator, on_step: OnStep
    ) -> Found:
        search = Search(
            _starting(task.masking, place.masks),
            lambda _victim, _generator: place.inputs,
            lambda inputs, _masks, _victims: self.prior(task, inputs),
            self.distance,
            sites=task.setting.sites,
        )
        rate = self.config.learning_rate * task.scale * self.config.decay ** (done // 50)
        pace = Pace(count, rate, self.config.mask_learning_rate * self.config.decay ** (done // 50))
        (row,) = descend(task.comparison, search, [task.labels], 1, pace, None, [generator], [on_step])
        return row

    def _draft(self, task: Task, generator: torch.Generator) -> _Place:
        """Return the best of random drafts, and of permutations of the best of them."""
        variables = tuple(own[None] for own in task.masking.first(generator))
        masks = tuple(mask[0].detach() for mask in task.masking.masks(variables, [0], [generator], 0.0))
        best = min(
            (task.drawn(generator) for _ in range(self.config.drafts)), key=lambda own: self._judged(task, own, masks)
        )
        permuted = (self._permuted(task, best, generator) for _ in range(self.config.drafts))
        other = min(permuted, key=lambda own: self._judged(task, own, masks))
        return _Place(min(best, other, key=lambda own: self._judged(task, own, masks)), masks)

    def _permuted(self, task: Task, inputs: Tensor, generator: torch.Generator) -> Tensor:
        permuted = inputs.clone()
        for row, length in enumerate(task.lengths):
            permuted[row, :length] = inputs[row, torch.randperm(length, generator=generator)]
        return permuted

    def _judged(self, task: Task, inputs: Tensor, masks: Masks) -> float:
        """Return the gradient distance of one dummy."""
        one, many = inputs[None].to(task.table), tuple(mask[None].to(task.table) for mask in masks)
        labels = task.labels[None].to(one.device)
        return float(self.distance(task.comparison.gradients(one, many, labels, [0])).detach())

    def finished(self, task: Task, found: Found, masks: Masks, generator: torch.Generator) -> Found:
        """Put the nearest tokens in place of the vectors, and change and move words as long as that helps."""
        masks = found.masks or masks
        following = task.words.following
        read = task.words.read
        vectors = found.inputs.to(task.table)
        length = task.observation.spec.shape[0]
        tokens = [nearest_tokens(vectors[:, :length], task.table, read)]
        if task.places > length:
            tokens.append(nearest_tokens(vectors[:, length:], task.table, following))
        place = _Place(task.table[torch.cat(tokens, 1)], masks)
        for _ in range(self.config.finishing):
            later = self._moved(task, self._changed(task, place, generator), generator)
            if torch.equal(later.inputs, place.inputs):
                break
            place = later
        found.inputs = place.inputs
        found.objective = self._judged(task, place.inputs, masks) + float(self.prior(task, place.inputs[None]))
        return found

    def _changed(self, task: Task, place: _Place, generator: torch.Generator) -> _Place:
        """Take a word out of a sentence and put any in elsewhere, or in its place; keep what lowers the distance."""
        inputs, least = place.inputs, self._judged(task, place.inputs, place.masks)
        for row, length in enumerate(task.lengths):
            choices = task.words.read if task.words.read is not None else torch.arange(len(task.table))
            for number in range(self.config.candidates):
                source, target = _two(length, generator)
                target = source if number % 2 else target
                order = list(range(length))
                order.insert(target, order.pop(source))
                other = inputs.clone()
                other[row, :length] = inputs[row, order]
                other[row, target] = task.table[choices[torch.randint(len(choices), (1,), generator=generator)]]
                distance = self._judged(task, other, place.masks)
                if distance < least:
                    inputs, least = other, distance
        return place._replace(inputs=inputs)

    def _moved(self, task: Task, place: _Place, generator: torch.Generator) -> _Place:
        """Try orders of every sentence, one sentence after the other, and keep the best."""
        inputs = place.inputs
        for row, length in enumerate(task.lengths):
            options = [inputs]
            for order in orders(length, self.config.candidates - 1, generator):
                other = inputs.clone()
                other[row, :length] = inputs[row, order]
                options.append(other)
            language = self._language(task, options, row)
            scores = [self._judged(task, own, place.masks) + said for own, said in zip(options, language, strict=True)]
            inputs = options[min(range(len(options)), key=scores.__getitem__)]
        return place._replace(inputs=inputs)

    @torch.no_grad()
    def _language(self, task: Task, options: list[Tensor], row: int) -> list[float]:
        """Return the weighted loss of a sentence in each option, under the received model; 0 without one."""
        vocabulary = task.observation.spec.vocabulary or 2
        if self.config.language_weight == 0.0 or task.observation.spec.classes != vocabulary:
            return [0.0] * len(options)
        tokens = torch.stack([task.tokens(own.to(task.table))[row] for own in options]).to(task.table.device)
        labels = torch.cat((tokens[:, 1:], tokens.new_full((len(tokens), 1), -1)), 1)
        labels[labels < 0] = IGNORED
        with without_dropout():
            outputs = task.setting.model(tokens.clamp_min(0))
        losses = torch.stack([cross_entropy(o[None], la[None]) for o, la in zip(outputs, labels, strict=True)])
        says = (1.0 - losses[0] / math.log(vocabulary)).clamp_min(0.0)
        return (self.config.language_weight * says * losses).tolist()


def orders(length: int, count: int, generator: torch.Generator) -> list[list[int]]:
    """Return so many orders of a sentence's places, each one move away from the present one.

    In turn: swap two words, move a word, move a span, put a beginning behind the end.
    """
    return [_MOVES[number % len(_MOVES)](list(range(length)), generator) for number in range(count)]


def _swap(order: list[int], generator: torch.Generator) -> list[int]:
    first, second = _two(len(order), generator)
    order[first], order[second] = order[second], order[first]
    return order


def _move_word(order: list[int], generator: torch.Generator) -> list[int]:
    source, target = _two(len(order), generator)
    order.insert(target, order.pop(source))
    return order


def _move_span(order: list[int], generator: torch.Generator) -> list[int]:
    first, second = sorted(_two(len(order), generator))
    span, rest = order[first : second + 1], order[:first] + order[second + 1 :]
    target = int(torch.randint(len(rest) + 1, (1,), generator=generator))
    return rest[:target] + span + rest[target:]


def _turn(order: list[int], generator: torch.Generator) -> list[int]:
    cut = int(torch.randint(len(order), (1,), generator=generator))
    return order[cut:] + order[:cut]


_MOVES = (_swap, _move_word, _move_span, _turn)


def _two(length: int, generator: torch.Generator) -> tuple[int, int]:
    first, second = torch.randint(length, (2,), generator=generator).tolist()
    return first, second


def _starting(masking: Masking, masks: Masks) -> Masking:
    return masking.starting_at(masks) if isinstance(masking, OptimisedMasks) else masking


def _later(on_step: OnStep, found: Found, iterations: int) -> OnStep:
    """Number the steps of a turn behind those of earlier ones."""
    done, best = len(found.objectives), found.objective

    def told(step: Step) -> None:
        on_step(replace(step, iteration=done + step.iteration, iterations=iterations, best=min(best, step.best)))

    return told
