"""Planted secrets: where they stand, that a model which learns them is found out, and what is undecided."""

import pytest
import torch

from fedsim.audit import AuditPlan, planted
from fedsim.audit.planted import REPETITIONS, measure, sentence_of
from fedsim.audit.record import AuditArm
from fedsim.core.errors import FedsimError
from fedsim.core.types import Batch
from fedsim.questions.exposure.question import ITEMS
from tests.audit.rows import subject

ARM = AuditArm(name="batch 8", batch_size=8)


def memorised(learning_rate: float) -> AuditArm:
    return measure(subject(learning_rate), AuditPlan(target="test"), ARM, 60.0)


def test_a_model_that_learns_is_found_out_and_what_was_not_planted_is_not() -> None:
    result = memorised(0.01)
    control, once, often = result.findings
    assert [own.scope["repetitions"] for own in result.findings] == list(REPETITIONS)
    assert often.value.value > 6  # of 7.65
    assert often.extra_metrics["secret_extraction_rate"].value > 0.5
    assert control.value.low < 1.44 < control.value.high  # bits of a uniform rank
    assert control.extra_metrics["secret_extraction_rate"].value == 0.0
    assert once.value.value < often.value.value
    said, secrets = sentence_of(result.findings), result.items[ITEMS]
    assert "remembers secrets that were planted" in said
    assert "16 times" in said
    pairs = list(zip(secrets["repetitions"], secrets["uses"], strict=True))
    uses = {times: [used for planted_, used in pairs if planted_ == times] for times in REPETITIONS}
    assert uses[0] == [0] * 8
    assert sum(uses[16]) == pytest.approx(4 * 16 * 8, rel=0.2)  # batches are drawn at random in each round


def test_a_model_that_learned_nothing_is_undecided() -> None:
    said = sentence_of(memorised(1e-9).findings)
    assert said.startswith("Undecided: even secrets that were planted 16 times")


def test_a_secret_stands_at_the_beginning_of_a_text_and_its_labels_are_the_next_tokens() -> None:
    texts = Batch(
        torch.arange(12).view(2, 6),
        torch.arange(1, 13).view(2, 6).masked_fill(torch.tensor([[0] * 6, [0, 0, 1, 1, 1, 1]]).bool(), -100),
        {"attention_mask": torch.tensor([[1] * 6, [1, 1, 0, 0, 0, 0]])},
    )
    own = planted._with_secret(texts, torch.tensor([50, 51, 52, 53]))
    assert own.inputs.tolist() == [[50, 51, 52, 53, 4, 5], [50, 51, 52, 53, 10, 11]]
    assert own.labels.tolist() == [[51, 52, 53, 4, 5, 6], [51, 52, 53, -100, -100, -100]]
    assert own.extra_inputs["attention_mask"].tolist() == [[1] * 6, [1, 1, 1, 1, 0, 0]]
    assert texts.inputs[0, 0] == 0  # the client's own stay as they are


def test_texts_that_hold_no_secret_are_told() -> None:
    with pytest.raises(FedsimError, match="planted secrets were not measured: texts of 3 tokens"):
        measure(subject(0.01, length=4), AuditPlan(target="test"), ARM, 60.0)


def test_without_time_nothing_is_said() -> None:
    with pytest.raises(FedsimError, match="planted secrets were not measured: 0 s were not enough"):
        measure(subject(0.01), AuditPlan(target="test"), ARM, 0.01)
