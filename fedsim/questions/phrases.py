"""phrases: describe private images in words, from the visual tokens that clients share.

The attacker sees the visual tokens of clients' images, as the server of split inference does. DeViL's translator,
trained on public images with captions, maps them to a prompt, and the received language model, frozen, writes the
caption. The likelihood of a word at each position shows where in the image its object is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.probe._translator import Translator
from fedsim.components.probe.devil import Devil, DevilConfig, Language, map_phrase, see_whole, write
from fedsim.core import seeding
from fedsim.core.best_step import TimedConfig
from fedsim.core.errors import ScenarioError, reason
from fedsim.core.nets.kv_cache import KVCache, LayerStack
from fedsim.core.nets.losses import IGNORED
from fedsim.core.nets.visual import Stream
from fedsim.core.registry import metric, question
from fedsim.core.types import Batch, Dataset
from fedsim.data._grid_words import CELL_WORDS, GridWords, cell_name
from fedsim.metrics.statistics import mean_interval
from fedsim.models._vision_language import VisionLanguage
from fedsim.questions.base import Evidence, Question, QuestionContext
from fedsim.record import Finding, Interval
from fedsim.scenario.world import World
from fedsim.threat import hidden_states

_BATCH = 64

Phrase = Sequence[int]


class Phrases(TimedConfig):
    """Settings of the translator, and the length of its texts."""

    longest: int = Field(default=16, ge=1, description="tokens of a written phrase, at most")
    probe: DevilConfig = DevilConfig(steps=600)


class _Images(NamedTuple):
    """Visual tokens as a map (N, width, rows, columns), and the caption of each image, without its end."""

    features: Tensor
    captions: list[list[int]]


class _Reader(NamedTuple):
    """A trained translator, and the frozen language model that completes its prompts."""

    translator: Translator
    language: Language


@metric(
    "phrase_words",
    title="words right",
    summary="mean over images of the F1 score of the written words against the words of the caption, in any order",
    over="finding",
    form="percent",
    limits=(0.0, 1.0),
)
@metric(
    "whole_phrases",
    title="whole phrases",
    summary="share of the images whose written phrase equals the caption in every word",
    over="finding",
    form="percent",
    limits=(0.0, 1.0),
)
@metric(
    "phrase_places",
    title="words placed",
    summary="mean over images of the share of the words whose likelihood is highest in a cell that holds their object",
    over="finding",
    form="percent",
    limits=(0.0, 1.0),
)
def mean_over_images(
    scores: Sequence[float], clients: Sequence[int], generator: np.random.Generator, confidence: float = 0.95
) -> Interval:
    """Return the mean over images with a bootstrap interval over clients, n the number of clients."""
    client_scores: dict[int, list[float]] = {}
    for score, client in zip(scores, clients, strict=True):
        client_scores.setdefault(client, []).append(score)
    return mean_interval(list(client_scores.values()), generator, confidence)


@final
@question("phrases", summary="what do shared visual tokens show, in words?", related="2309.01617")
class PhrasesQuestion(Question[Phrases]):
    """Writes a phrase about each private image with DeViL, and compares it with the caption."""

    metric: ClassVar[str] = "phrase_words"
    title: ClassVar[str] = "What do shared features show, in words?"
    summary: ClassVar[str] = (
        "A translator learns from public images and their captions to map visual tokens to a prompt of the frozen "
        "language model, which then writes a phrase about each private image."
    )
    method: ClassVar[str] = (
        "Words right: F1 score of the written words against the true answer to the image's question, in any order; "
        "intervals are over clients. Words placed: share of an image's digits that are likeliest at a position inside "
        "a cell with that digit. The control learns from public images with permuted captions, so that it knows "
        "the language but not the images."
    )

    def describe_attacker(self) -> Iterator[str]:
        """Yield the observed features and the attacker's knowledge."""
        yield (
            "It sees the projected visual tokens of the clients' images, as the server of split inference does, and "
            "knows images, questions and answers of the test set."
        )

    def check(self, world: World) -> None:
        """Check that clients have images with captions, and that the model writes.

        Raises:
            ScenarioError: a check failed; the message gives the reason.
        """
        if world.data.dataset.task != "visual-question-answering":
            raise ScenarioError(
                f"phrases: answers about images are the captions, and data '{world.scenario.data.name}' has none. "
                'Choose data.name = "digit-grids".'
            )
        model = world.models.workspace.model
        if not isinstance(model, VisionLanguage):
            raise ScenarioError(
                f"phrases: model '{world.scenario.model.name}' has no visual tokens. Choose model.name = \"tiny-vlm\"."
            )
        if len(model.reducers):
            raise ScenarioError(
                "phrases: a component leaves visual tokens out, and the translator reads whole maps. Remove the "
                "component of hook token_reducer, or the table [phrases]."
            )

    def run(self, evidence: Evidence, work: QuestionContext) -> Iterator[Finding]:
        """Yield the finding and its negative control."""
        world = evidence.world
        finding = Finding(question="phrases", label="phrases written by DeViL", method="devil", metric="phrase_words")
        scores: dict[bool, dict[str, list[float]]] = {False: {}, True: {}}
        clients = list[int]()
        try:
            for shared in hidden_states.shared_texts(world, evidence.journal.entries):
                model, dataset = _vision_language(shared.model), world.data.dataset
                public, private = _images(model, dataset.test), _images(model, dataset.train.select(shared.examples))
                cells = _cell_words(dataset, shared.examples)
                for is_permuted, columns in scores.items():
                    work.check_cancelled()
                    reader = self._train(world, shared.number, model, public, is_permuted=is_permuted)
                    for name, values in self._score(reader, private, model.end, cells).items():
                        columns.setdefault(name, []).extend(values)
                clients += shared.clients.tolist()
        except Exception as error:  # a method may raise anything
            yield finding.model_copy(update={"failure": reason(error)})
            return
        figures, blind_figures = (_means(world, scores[is_permuted], clients) for is_permuted in (False, True))
        words, blind_words = figures.pop("phrase_words"), blind_figures.pop("phrase_words")
        common = {"chance_level": blind_words.value, "scope": {"public": len(world.data.dataset.test)}}
        yield finding.model_copy(update={**common, "value": words, "extra_metrics": figures})
        control = {"label": f"{finding.label}, captions permuted", "role": "negative-control", "value": blind_words}
        yield finding.model_copy(update={**common, **control, "extra_metrics": blind_figures})

    def _train(
        self, world: World, number: int, model: VisionLanguage, public: _Images, *, is_permuted: bool
    ) -> _Reader:
        """Return a translator that learned from the public images, with its language model."""
        seed, speaker = world.scenario.seed, _Speaker(model)
        captions = [[*caption, model.end] for caption in public.captions]
        if is_permuted:
            order = torch.randperm(len(captions), generator=seeding.generator(seed, "permuted captions", number))
            captions = [captions[place] for place in order.tolist()]
        source, probe = seeding.generator(seed, "phrases", number), Devil(self.config.probe)
        language = Language(speaker, speaker.begin)
        translator = probe.make_translator([public.features.shape[1]], language.width, source)
        probe.train(translator, language, [public.features], captions, source)
        return _Reader(translator.eval(), language)

    def _score(self, reader: _Reader, private: _Images, end: int, cells: Tensor | None) -> dict[str, list[float]]:
        """Return the score of each private image by metric."""
        seen = see_whole([private.features], layers=[0])
        texts = write(*reader, seen, end, self.config.longest)
        pairs = list(zip(texts, private.captions, strict=True))
        scores = {
            "phrase_words": [_f1(*pair) for pair in pairs],
            "whole_phrases": [float(text == caption) for text, caption in pairs],
        }
        return scores if cells is None else {**scores, "phrase_places": _placed(reader, private.features, cells)}


class _Speaker(nn.Module):
    """The language model of a vision-language model, as a stack of layers without a cache."""

    def __init__(self, model: VisionLanguage) -> None:
        super().__init__()
        self.host, self._language = model, model.language()
        self.depth = model.visual.layers
        front, _ = model.laid_out(torch.zeros(1, 1, dtype=torch.long))
        self.begin = int(front[0, 0])

    def stack(self) -> LayerStack:
        """Return this module."""
        return self

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the vectors of tokens."""
        return self._language.embed(tokens)

    def place(self, hidden: Tensor, positions: Tensor) -> Any:
        """Return the positions."""
        return positions

    def layer(self, number: int, hidden: Tensor, place: Any, mask: Tensor | None, store: KVCache) -> Tensor:
        """Return the states after a layer with a causal mask."""
        nothing = torch.zeros(len(hidden), 0, dtype=torch.long)
        return self._language.run(number, Stream(hidden, place, nothing, front=hidden.shape[1]), None)

    def score(self, hidden: Tensor) -> Tensor:
        """Return the next-token scores."""
        return self._language.score(hidden)


def _vision_language(model: nn.Module) -> VisionLanguage:
    assert isinstance(model, VisionLanguage), "checked before the first round"
    return model.eval()


@torch.no_grad()
def _images(model: VisionLanguage, batch: Batch) -> _Images:
    """Return the visual tokens of a batch's images, and the answers as captions."""
    pairs = zip(batch.inputs.split(_BATCH), batch.extra_inputs["question"].split(_BATCH), strict=True)
    tokens = torch.cat([model.encode(images, question).hidden_states for images, question in pairs])
    captions = [[word for word in row if word not in (IGNORED, model.end)] for row in batch.labels.tolist()]
    return _Images(tokens.transpose(1, 2).unflatten(2, model.visual.grid), captions)


def _f1(text: Phrase, caption: Phrase) -> float:
    """Return twice the number of common words over the number of all words."""
    return 2 * (Counter(text) & Counter(caption)).total() / max(1, len(text) + len(caption))


def _cell_words(dataset: Dataset, examples: Tensor) -> Tensor | None:
    """Return the digit's word in each cell of training images, shape (N, cells, cells), -1 for an empty cell.

    Data without cells give None.
    """
    words = dataset.tokenizer
    if not isinstance(words, GridWords):
        return None
    side = range(words.cells)
    contents = [dataset.attributes[cell_name(row, column)].train[examples] for row in side for column in side]
    numbers = torch.tensor([-1, *map(words.of, CELL_WORDS[1:])])
    return numbers[torch.stack(contents, 1)].unflatten(1, (words.cells, words.cells))


def _placed(reader: _Reader, features: Tensor, cells: Tensor) -> list[float]:
    """Return the share of each image's digits whose map has its maximum in a cell with that digit.

    Args:
        reader: translator and language model.
        features: visual tokens, shape (N, width, rows, columns).
        cells: word of each cell, shape (N, cells, cells), -1 for an empty cell.
    """
    side, (rows, columns) = cells.shape[-1], features.shape[-2:]
    found, present = torch.zeros(len(cells)), torch.zeros(len(cells))
    for word in cells[cells >= 0].unique().tolist():
        peaks = map_phrase(*reader, [features], [0], [word]).flatten(1).argmax(1)
        hit = cells[torch.arange(len(cells)), peaks // columns * side // rows, peaks % columns * side // columns]
        found += hit == word
        present += (cells == word).any(2).any(1)
    return (found / present).tolist()


def _means(world: World, scores: dict[str, list[float]], clients: Sequence[int]) -> dict[str, Interval]:
    """Return the mean of each metric's scores over images."""
    seed, confidence = seeding.derive(world.scenario.seed, "bootstrap"), world.scenario.scoring.confidence
    return {
        name: mean_over_images(values, clients, np.random.default_rng(seed), confidence)
        for name, values in scores.items()
    }
