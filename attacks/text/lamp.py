"""lamp: search a text by gradient descent and by moves of words in turn (LAMP).

Gradients are compared by direction, tensor by tensor. Two words are swapped, a word or a span is moved, or a prefix is
moved to the end. The search starts from the best of random drafts and of permutations of that draft. Other than in the
paper, drafts hold every recovered token, and lengths are inferred from the gradient. At the end the search continues
with tokens by simulated annealing over moves and replacements, `restarts` times from different texts. Moves are
compared under the expected masks, since searched masks have adapted to a wrong text; masks for the tokens are searched
at the end.

Idea: descent finds words, but not their order. So words are swapped or moved in between; moves are kept if they lower
    the gradient's distance plus a language model's loss. The language model is the received model, weighted by how far
    its loss is below that of guessing, so an untrained model has no influence.
Equation: min over x of 1 - mean_l cos(g_l, g*_l) + c (|x| / |E| - 1)^2, |x|, |E| mean norms of vectors and embedding.
Assumes: honest-but-curious server, a single gradient; a loss of next words (mean cross-entropy), or granted labels.
Recovers: words, partly in order, and lengths; dropout masks of known rates are searched too, unlike in the paper.
Fails: long sentences and batches, trained models: it ends in a local minimum. Contrastive losses are refused.
Source: Balunovic et al. 2022, arXiv 2202.08827; new is a last search over tokens, by moves and replacements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.core.matching.comparison import Comparison
from attacks.core.matching.descent import Descent, DescentSettings, RestartResult, Search, descend
from attacks.core.matching.unknowns import MASKS
from attacks.core.progress import shift_progress
from attacks.core.tolerances import EXACT_TEXT
from attacks.text._examples import LISTS
from attacks.text._token_edits import change, orders
from attacks.text._vectors import nearest_tokens
from attacks.text.base import GRADIENTS_OF_A_TEXT_STEP, TextMatching, TextMatchingConfig, TextProblem
from fedsim.core.hooks import Effort, Tables
from fedsim.core.nets.losses import IGNORED, cross_entropy
from fedsim.core.nets.masks import disable_dropout
from fedsim.core.registry import attack
from fedsim.core.types import Masks, Observation, OnStep

_MASK_ITERATIONS = 60  # with fixed tokens
_NEIGHBOURS = 8  # proposed edits per annealing step; the best is considered
_AT_ONCE = 25  # dummies per batch
_HEAT = 0.01  # last search: how much a change may raise the distance on average, at first
_LANGUAGE = 0.2  # weight of the language model's loss in comparing orders


class LampConfig(TextMatchingConfig):
    """Settings of LAMP."""

    max_iterations: int = Field(default=2000, ge=1, description="iterations of the descent in total")
    learning_rate: float = Field(
        default=0.3, gt=0, description="Adam's first step, in units of the root mean square of the embedding's entries"
    )
    decay: float = Field(default=0.89, gt=0, le=1, description="factor by which the step shrinks every 50 iterations")
    norm_weight: float = Field(default=1.0, ge=0, description="weight c of the regulariser of the vectors' norms")
    drafts: int = Field(default=500, ge=1, description="number of random drafts, and of permutations of the best draft")
    move_interval: int = Field(default=75, ge=1, description="iterations between moves of words")
    burn_in: float = Field(default=0.1, ge=0, le=1, description="share of the iterations before the first moves")
    candidates: int = Field(default=200, ge=1, description="number of orders of a sentence that are tried each time")
    final_moves: int = Field(
        default=8000, ge=0, description="last search: number of changes of tokens that are tried in each search"
    )
    restarts: int = Field(
        default=2,
        ge=1,
        description="last search: number of searches, the first from the descent's text, the others from drafts",
    )


class _Place(NamedTuple):
    """State of the search: a dummy (B, places, d), and the masks of its forward passes."""

    inputs: Tensor
    masks: Masks


@final
@attack(
    "lamp",
    summary="text by descent and by moving words (LAMP)",
    tier="core",
    paper="2202.08827",
    fidelity="variant",
    deviates="the received model replaces GPT-2 as language prior; a final token search follows",
    paper_steps=(
        ("descent on one vector per token", "Lamp._descent"),
        ("penalty on the length of the vectors", "Lamp.prior"),
        ("moves of words in turn", "attacks.text._token_edits.orders"),
        ("choice by gradient and language model", "Lamp._judge"),
        ("GPT-2 as language model", ""),
    ),
)
class Lamp(TextMatching[LampConfig]):
    """Alternates descent and moves of words."""

    effort: ClassVar[Effort] = "descent"
    example: ClassVar[Tables] = {
        **LISTS,
        "attacks": [{"max_iterations": 10, "drafts": 4, "move_interval": 5, "candidates": 4, "final_moves": 10}],
    }

    @classmethod
    def settings_for_budget(cls, gradients: int) -> dict[str, Any]:
        """Return settings with about this number of gradients before the last search, which adds a third of it."""
        turns = 10
        iterations = max(1, gradients // 3)
        candidates = max(1, gradients // (3 * turns))
        return {
            "max_iterations": iterations,
            "move_interval": max(1, iterations // turns),
            "drafts": max(1, gradients // 6),
            "candidates": candidates,
            "final_moves": gradients // 3,
            "restarts": 1,
        }

    def estimate_success(self, observation: Observation) -> tuple[float, str]:
        """Expect more than of other text descents, which do not reorder words."""
        return 0.3, "moves of words find their order"

    def count_gradients(self) -> float:
        """Count the descent, the drafts, the orders between descents, and the last search."""
        config = self.config
        turns = config.max_iterations / config.move_interval
        tried = 2 * config.drafts + turns * config.candidates + config.restarts * config.final_moves
        return GRADIENTS_OF_A_TEXT_STEP * config.max_iterations + tried

    def rows(self, task: TextProblem, generator: torch.Generator, on_step: OnStep) -> list[RestartResult]:
        """Return the best text that the descent and the moves have visited."""
        config = self.config
        place = self._draft(task, generator)
        result = RestartResult(0, 0, place.inputs, place.masks)
        while (done := len(result.objectives)) < config.max_iterations:
            count = min(config.move_interval, config.max_iterations - done)
            shifted = shift_progress(on_step, done=done, iterations=config.max_iterations, best=result.objective)
            turn = self._descent(task, place, done, count, generator, shifted)
            if turn.objective < result.objective:
                result.inputs, result.masks = turn.inputs, turn.masks
                result.objective, result.iteration = turn.objective, done + turn.iteration
            result.objectives += turn.objectives
            if turn.iteration == 0:
                result.stop_reason = turn.stop_reason
                break
            place = _Place(turn.inputs, turn.masks or place.masks)
            if done + count >= config.burn_in * config.max_iterations:
                place = self._move(task, place, generator)
        return [self.finish(task, result, generator)]

    def prior(self, task: TextProblem, inputs: Tensor) -> Tensor:
        """Return the regulariser of the vectors' norms, shape (R,), for vectors (R, B, places, d)."""
        return self.config.norm_weight * (inputs.norm(dim=-1).mean((1, 2)) / task.usual - 1.0).square()

    def _descent(
        self, task: TextProblem, place: _Place, done: int, count: int, generator: torch.Generator, on_step: OnStep
    ) -> RestartResult:
        decay = self.config.decay ** (done // 50)
        unknowns = task.unknowns.starting_at({MASKS: place.masks}).with_rate(self.config.mask_learning_rate * decay)
        search = Search(
            unknowns,
            lambda _victim, _generator: place.inputs,
            self.distance,
            lambda inputs, _masks, _victims: self.prior(task, inputs),
        )
        settings = DescentSettings(count, self.config.learning_rate * task.scale * decay)
        (row,) = descend(Descent(task.comparison, search, task.victim(generator, on_step), settings))
        return row

    def _draft(self, task: TextProblem, generator: torch.Generator) -> _Place:
        masks = task.usual_masks
        drafts = [task.draw(generator) for _ in range(self.config.drafts)]
        best = drafts[_least(self._judge(task.comparison, task, drafts, masks))]
        candidates = [best, *(self._permute(task, best, generator) for _ in range(self.config.drafts))]
        return _Place(candidates[_least(self._judge(task.comparison, task, candidates, masks))], masks)

    def _permute(self, task: TextProblem, inputs: Tensor, generator: torch.Generator) -> Tensor:
        permuted = inputs.clone()
        for row, length in enumerate(task.lengths):
            permuted[row, :length] = inputs[row, torch.randperm(length, generator=generator)]
        return permuted

    def _judge(self, comparison: Comparison, task: TextProblem, options: Sequence[Tensor], masks: Masks) -> list[float]:
        distances: list[float] = []
        for start in range(0, len(options), _AT_ONCE):
            inputs = torch.stack([*options[start : start + _AT_ONCE]]).to(task.table)
            rows = len(inputs)
            expanded_masks = tuple(mask.to(task.table).expand(rows, *mask.shape) for mask in masks)
            labels = task.labels.to(inputs.device).expand(rows, *task.labels.shape)
            gradients = comparison.gradients(inputs, expanded_masks, labels, [0] * rows)
            distances += self.distance(gradients).tolist()
        return distances

    def finish(self, task: TextProblem, result: RestartResult, generator: torch.Generator) -> RestartResult:
        """Replace the vectors by tokens and improve these by edits; then repeat from random drafts.

        Unknown masks are set to their expectation here, since searched masks have adapted to the vectors. Masks for the
        tokens
        are searched at the end.
        """
        starts = [result.inputs, *(task.draw(generator) for _ in range(self.config.restarts - 1))]
        best, least = self._climb(task, starts[0], generator)
        for start in starts[1:]:
            if least < EXACT_TEXT:
                break
            climbed, distance = self._climb(task, start, generator)
            if distance < least:
                best, least = climbed, distance
        result.inputs, result.objective = task.table[best], least + float(self.prior(task, task.table[best][None]))
        if task.unknowns.first(torch.Generator()):
            result.masks = self._fitting_masks(task, result.inputs, generator)
        return result

    def _climb(self, task: TextProblem, vectors: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
        """Return the tokens (B, places) with the closest gradient found by simulated annealing, and their distance.

        In each step the best of a few edits is accepted if it raises the distance by less than a random amount, which
        shrinks
        to 0.
        """
        vectors, length = vectors.to(task.table), task.observation.spec.shape[0]
        tokens = nearest_tokens(vectors[:, :length], task.table, task.words.read)
        if task.places > length:
            tokens = torch.cat((tokens, nearest_tokens(vectors[:, length:], task.table, task.endings)), 1)
        present = best = tokens
        (distance,) = (least,) = self._judge(task.exact, task, [task.table[present]], task.usual_masks)
        steps = self.config.final_moves // _NEIGHBOURS
        for step in range(steps):
            if least < EXACT_TEXT:
                break
            options = [change(present, task.lengths, task.choices, task.endings, generator) for _ in range(_NEIGHBOURS)]
            distances = self._judge(task.exact, task, [task.table[option] for option in options], task.usual_masks)
            nearest = _least(distances)
            worse = -math.log1p(-float(torch.rand((), generator=generator)))
            if distances[nearest] < distance + _HEAT * (1.0 - step / steps) * worse:
                present, distance = options[nearest], distances[nearest]
            if distance < least:
                best, least = present, distance
        return best, least

    def _fitting_masks(self, task: TextProblem, inputs: Tensor, generator: torch.Generator) -> Masks:
        search = Search(task.unknowns, lambda _victim, _generator: inputs, self.distance)
        settings = DescentSettings(_MASK_ITERATIONS, 0.0, schedule="cosine")
        (row,) = descend(Descent(task.exact, search, task.victim(generator, lambda _step: None), settings))
        return row.masks

    def _move(self, task: TextProblem, place: _Place, generator: torch.Generator) -> _Place:
        """Try reorderings of each sentence in turn, and keep the best."""
        inputs = place.inputs
        for row, length in enumerate(task.lengths):
            options = [inputs]
            for order in orders(length, self.config.candidates - 1, generator):
                moved = inputs.clone()
                moved[row, :length] = inputs[row, order]
                options.append(moved)
            language = self._language(task, options, row)
            distances = self._judge(task.comparison, task, options, place.masks)
            inputs = options[_least([distance + said for distance, said in zip(distances, language, strict=True)])]
        return place._replace(inputs=inputs)

    @torch.no_grad()
    def _language(self, task: TextProblem, options: list[Tensor], row: int) -> list[float]:
        """Return the weighted loss of a sentence in each option under the received model; 0 for other models."""
        vocabulary = task.observation.spec.vocabulary or 2
        if not task.observation.task.labels_are_inputs:
            return [0.0] * len(options)
        tokens = torch.stack([task.tokens(option.to(task.table))[row] for option in options]).to(task.table.device)
        labels = torch.cat((tokens[:, 1:], tokens.new_full((len(tokens), 1), -1)), 1)
        labels[labels < 0] = IGNORED
        with disable_dropout():
            outputs = task.client.model(tokens.clamp_min(0))
        losses = torch.stack([cross_entropy(o[None], la[None]) for o, la in zip(outputs, labels, strict=True)])
        says = (1.0 - losses[0] / math.log(vocabulary)).clamp_min(0.0)
        return (_LANGUAGE * says * losses).tolist()


def _least(values: Sequence[float]) -> int:
    return min(range(len(values)), key=values.__getitem__)
