"""Phrases: features that hold a caption are put into its words, and features without meaning are not."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedsim.components.probe.devil import Language, _Names
from fedsim.core import seeding
from fedsim.core.errors import ScenarioError
from fedsim.core.types import Batch
from fedsim.data.digit_grids import DigitGridsConfig, draw_grids, stocks
from fedsim.questions import phrases as asking
from fedsim.questions.base import Evidence, QuestionContext
from fedsim.questions.phrases import Phrases, PhrasesQuestion
from fedsim.record import Finding
from fedsim.scenario import world as worlds
from tests.experiment.running import Build
from tests.questions.texts import evidence_of

GRIDS: dict[str, Any] = {
    "data": {"name": "digit-grids", "source": "digits", "train": 24, "test": 40, "list": 1.0, "max_digits": 3},
    "model": {"name": "tiny-vlm", "blocks": 1, "width": 32, "hidden": 32, "encoder_width": 32, "encoder_blocks": 2},
    "federation": {"algorithm": "fedsgd", "clients": 6, "batch_size": 4},
    "threat": {"victims": 6, "keep_updates": False},
}
GRIDS["data"] |= {"position": 0.0, "presence": 0.0, "counting": 0.0}
PROBE = {"steps": 120, "batch": 16, "rate": 1e-2, "width": 32, "blocks": 1}


def ask(evidence: Evidence, **probe: Any) -> list[Finding]:
    config = Phrases.model_validate({"longest": 3, "probe": {**PROBE, **probe}})
    return list(PhrasesQuestion(config).run(evidence, QuestionContext()))


@pytest.fixture(scope="module")
def evidence(scenario: Build) -> Evidence:
    return evidence_of(scenario(**GRIDS))


def plant(monkeypatch: pytest.MonkeyPatch, *, is_meant: bool) -> None:
    """Let each image have one of three captions, and features that hold its number, or nothing."""
    real, codes = asking._images, torch.randn(3, 32, 1, 1, generator=torch.Generator().manual_seed(0))

    def images(model: nn.Module, batch: Batch) -> asking._Images:
        features, _ = real(model, batch)  # type: ignore[arg-type]
        numbers = torch.arange(len(features)) % 3
        features = codes[numbers].expand_as(features) if is_meant else torch.ones_like(features)
        return asking._Images(features, [[15 + number] for number in numbers.tolist()])

    monkeypatch.setattr(asking, "_images", images)


@pytest.mark.paper_step("devil", "text about an image from its features")
def test_features_that_hold_the_caption_are_put_into_words(evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, is_meant=True)
    read, control = ask(evidence)
    assert (read.label, read.role, read.state) == ("phrases written by DeViL", "attack", "recovered")
    assert (read.value.value, read.value.n) == (1.0, 6)
    assert read.extra_metrics["whole_phrases"].value == 1.0
    assert read.scope == {"public": 40}
    assert 0.0 <= read.extra_metrics["phrase_places"].value <= 1.0
    assert read.extra_metrics["phrase_places"].n == 6
    assert (control.label, control.role) == ("phrases written by DeViL, captions permuted", "negative-control")
    assert read.chance_level == control.chance_level == control.value.value < 0.6
    assert control.extra_metrics["whole_phrases"].value < 0.6


def test_features_without_meaning_give_no_words(evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, is_meant=False)
    read, _ = ask(evidence)
    assert read.value.value < 0.6


def test_real_features_are_read_as_a_map_with_the_answer_as_caption(evidence: Evidence) -> None:
    dataset = evidence.world.data.dataset
    model = evidence.world.models.workspace.model
    features, captions = asking._images(model, dataset.test)  # type: ignore[arg-type]
    assert features.shape == (40, 32, 8, 8)
    tokens = model.encode(dataset.test.inputs[:2], dataset.test.extra_inputs["question"][:2]).hidden_states  # type: ignore[operator]
    assert torch.allclose(features[1, :, 2, 3], tokens[1, 2 * 8 + 3], atol=1e-5)
    end = dataset.test.labels[0].tolist().index(dataset.tokenizer.end)  # type: ignore[union-attr]
    assert captions[0] == dataset.test.labels[0, :end].tolist()


def test_words_count_as_often_as_they_occur_and_in_any_order() -> None:
    assert asking._f1([1, 2, 2], [2, 1]) == 2 * 2 / 5
    assert asking._f1([2, 1, 2], [2, 2]) == 2 * 2 / 5  # two of the three words, not one
    assert asking._f1([3], [2, 1]) == 0.0
    assert asking._f1([], []) == 0.0
    value = asking.mean_over_images([1.0, 0.0, 0.5], [4, 4, 7], np.random.default_rng(0))
    assert (value.value, value.n) == (0.5, 2)


def test_a_word_is_placed_where_its_likelihood_is_highest() -> None:
    # two rows and four columns of positions over 2 x 2 cells; a position's vector scores each of 20 words
    features, cells = torch.zeros(2, 20, 2, 4), torch.full((2, 2, 2), -1)
    cells[0, 0, 1], cells[0, 1, 0] = 15, 16
    features[0, 15, 0, 2] = features[0, 16, 0, 1] = 9.0  # 15 in its cell, 16 a row too high
    cells[1, 0, 0] = cells[1, 1, 1] = 15
    cells[1, 0, 1] = 17
    features[1, 15, 1, 3] = features[1, 17, 0, 2] = 9.0
    language = Language(_Names(torch.eye(20)), 0)
    own: Any = asking._Reader(lambda vectors, _: vectors[0][:, None], language)  # type: ignore[arg-type]
    assert asking._placed(own, features, cells) == [0.5, 1.0]


def test_cells_hold_the_digits_that_were_drawn(evidence: Evidence) -> None:
    dataset, config = (
        evidence.world.data.dataset,
        DigitGridsConfig(**{k: v for k, v in GRIDS["data"].items() if k != "name"}),
    )
    _, digits = draw_grids(config, 24, stocks("digits")[0], seeding.generator(config.seed, "digit grids train"))
    words = [[dataset.class_names.index(f"d{digit}") if digit >= 0 else -1 for digit in row] for row in digits.tolist()]
    found = asking._cell_words(dataset, torch.tensor([3, 7]))
    assert found.shape == (2, 4, 4)
    assert found.flatten(1).tolist() == [words[3], words[7]]
    assert asking._cell_words(replace(dataset, tokenizer=None), torch.tensor([3])) is None


def test_an_error_of_the_translator_is_the_finding_s_failure(
    evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_images", lambda *_: 1 / 0)
    (found,) = ask(evidence)
    assert found.state == "failed"
    assert "division" in found.failure


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"data": {"name": "digits", "train": 20, "test": 20}, "model": {"name": "mlp"}}, "data 'digits' has none"),
        ({**GRIDS, "components": [{"name": "cls-topk", "kept": 4}]}, "leaves visual tokens out"),
    ],
)
def test_what_has_no_phrases_is_refused_before_training(scenario: Build, tables: dict[str, Any], message: str) -> None:
    world = worlds.build(scenario(**tables))
    with pytest.raises(ScenarioError, match=message):
        PhrasesQuestion(Phrases()).check(world)
