"""Texts of loaders: read as tokens of one length, and attacked as the tasks of texts are."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedsim.audit import AuditPlan, loading, single_client, subject, texts
from fedsim.audit.record import KNOWS
from fedsim.audit.training import train
from fedsim.audit.update_attacks import UpdateAttacker, updates
from fedsim.core.errors import FedsimError
from fedsim.core.types import Batch, Tensors
from fedsim.federation.client import local_training
from fedsim.questions.base import QuestionContext


@pytest.fixture(autouse=True)
def foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def checked(name: str) -> subject.CheckedSubject:
    import foreign

    return subject.check_subject(loading.load_subject(getattr(foreign, name), name), name)


def sent_without_dropout(name: str) -> tuple[Any, Tensors, Batch]:
    """Return a model, what a client of it sends of two texts, and these."""
    own = checked(name)
    model: Any = own.new_model()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    undropped = subject.check_subject(subject.Subject(copy.deepcopy(model), None, own.subject.loader), name)
    world = single_client.world_of(undropped, AuditPlan(target=name), 2)
    update, truth = local_training(world, world.models.first_weights, 1, 0)
    return model, update.tensors, truth.batches[0]


def assert_gradients(model: nn.Module, sent: Tensors) -> None:
    for name, parameter in model.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert torch.allclose(sent[name], expected, atol=1e-6), name


def test_what_a_classifier_sends_is_the_gradient_that_it_has_itself() -> None:
    model, sent, batch = sent_without_dropout("bert")
    assert set(batch.extra_inputs) == {"attention_mask"}
    scores = model(input_ids=batch.inputs, attention_mask=batch.extra_inputs["attention_mask"])
    F.cross_entropy(scores, batch.labels).backward()
    assert_gradients(model, sent)


def test_a_language_model_learns_the_next_tokens_and_what_fills_up_is_left_out() -> None:
    item = {"input_ids": torch.tensor([[5, 6, 7, 0]]), "attention_mask": torch.tensor([[1, 1, 1, 0]])}
    batch = texts.batch_of(item, "it")
    assert batch.labels.tolist() == [[6, 7, -100]]
    both = texts.concat_texts([batch, texts.batch_of({"input_ids": torch.tensor([[8, 9]])}, "it")], 0)
    assert both.inputs.tolist() == [[5, 6, 0], [8, 0, 0]]
    assert both.labels.tolist() == [[6, 7, -100], [9, -100, -100]]
    assert both.extra_inputs["attention_mask"].tolist() == [[1, 1, 0], [1, 0, 0]]
    assert texts.concat_texts([texts.batch_of({"input_ids": torch.tensor([[8, 9]])}, "it")], 0).extra_inputs == {}
    left = {"input_ids": torch.tensor([[0, 5, 6, 7]]), "attention_mask": torch.tensor([[0, 1, 1, 1]])}
    assert texts.batch_of(left, "it").labels.tolist() == [[-100, 6, 7]]
    assert texts.batch_of(left, "it").extra_inputs["attention_mask"].tolist() == [[0, 1, 1]]


def test_what_a_language_model_sends_is_the_gradient_that_it_has_itself() -> None:
    model, sent, batch = sent_without_dropout("gpt")
    whole = []
    for tokens, labels in zip(batch.inputs, batch.labels, strict=True):  # the text that the loader held
        length = int((labels >= 0).sum())
        whole.append(torch.cat((tokens[:length], labels[length - 1 : length])))
    texts_ = nn.utils.rnn.pad_sequence(whole, batch_first=True)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(own) for own in whole], batch_first=True)
    scores = model(input_ids=texts_, attention_mask=mask)[:, :-1]
    F.cross_entropy(scores.flatten(0, 1), texts_[:, 1:].masked_fill(mask[:, 1:] == 0, -100).flatten()).backward()
    assert_gradients(model, sent)


@pytest.mark.parametrize("name", ["bert", pytest.param("gpt", marks=pytest.mark.slow)])
def test_words_of_unchanged_models_are_found_and_they_train(name: str) -> None:
    own = checked(name)
    world = single_client.world_of(own, AuditPlan(target=name), 1)
    inspector = UpdateAttacker((*KNOWS, "extra-inputs"), lambda _said: None)
    found = inspector.inspect(world, updates(world), QuestionContext(), 1, 20, 20.0)
    (victim,) = found.victims
    assert victim.failure is None
    assert victim.scores[0].text
    assert victim.values["words_found"] > 0.5
    assert victim.values.get("every_word") == {"bert": 1.0, "gpt": None}[name]  # tied weights have no zero rows
    assert train(world, 2, 1.0).summary.test_examples == 12


@pytest.mark.parametrize("size", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_every_sentence_of_an_encoder_without_dropout_is_read_in_order(size: int) -> None:
    world = single_client.world_of(checked("encoder"), AuditPlan(target="encoder"), size)
    found = UpdateAttacker(KNOWS, lambda _said: None).inspect(world, updates(world), QuestionContext(), 1, 20, 30.0)
    (victim,) = found.victims
    assert [score.values["exact"] for score in victim.scores] == [1.0] * size


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"input_ids": torch.rand(2, 3)}, "expected integers of shape"),
        ({"input_ids": torch.ones(2, 3).long(), "labels": torch.rand(2)}, "labels of another length or type"),
        ({"input_ids": torch.ones(2, 1).long()}, "texts of a single token"),
    ],
)
def test_other_tensors_are_a_users_mistake(item: dict[str, Any], message: str) -> None:
    with pytest.raises(FedsimError, match=message):
        texts.batch_of(item, "the loader")


def test_a_model_without_these_tokens_is_a_users_mistake() -> None:
    class Scores(nn.Module):
        def __init__(self, tokens: int) -> None:
            super().__init__()
            self.table = nn.Embedding(tokens, 3)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.table(tokens.clamp_max(self.table.num_embeddings - 1)).mean(1)

    loader = [{"input_ids": torch.tensor([[1, 9], [2, 3]]), "labels": torch.tensor([0, 1])}]
    with pytest.raises(FedsimError, match="a token is 9, but the model embeds tokens 0 to 4"):
        subject.check_subject(subject.Subject(Scores(5), None, loader), "it")


def test_pairs_of_tokens_and_classes_are_texts_where_the_model_embeds_tokens() -> None:
    tokens, classes = torch.tensor([[1, 4, 2], [2, 3, 0]]), torch.tensor([0, 1])
    embeds = nn.Sequential(nn.Embedding(5, 2), nn.Flatten(), nn.Linear(6, 2))
    pairs = [(tokens, classes), [tokens.int(), classes]]
    read = subject.check_subject(subject.Subject(embeds, None, pairs), "it").dataset
    assert (read.task, read.spec.vocabulary, read.spec.shape) == ("text-classification", 5, (3,))
    assert torch.equal(torch.cat((read.train.inputs, read.test.inputs)), tokens.repeat(2, 1))
    assert torch.equal(torch.cat((read.train.labels, read.test.labels)), classes.repeat(2))
    for model, labels in ((nn.Linear(3, 2), classes), (embeds, tokens)):
        with pytest.raises(FedsimError, match=r"yields torch.int64 of shape \(2, 3\), expected"):
            subject.check_subject(subject.Subject(model, None, [(tokens, labels)] * 2), "it")


@pytest.mark.parametrize("item", ["a text", (["a text", "another"], torch.tensor([0, 1]))])
def test_a_loader_of_plain_texts_is_told_what_to_yield(item: Any) -> None:
    with pytest.raises(FedsimError, match="let the loader's collate_fn call a tokenizer"):
        subject.check_subject(subject.Subject(nn.Linear(4, 2), None, [item] * 4), "it")
