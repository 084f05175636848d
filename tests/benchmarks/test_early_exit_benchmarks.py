"""Early exits of a real model: tokens that compete, exits that agree, and the training that is a control."""

import pytest
import torch

from benchmarks._checkpoint_training import places
from benchmarks._news_smollm2 import Narrow
from benchmarks.decoders import timed
from benchmarks.drafts import exits_agree
from benchmarks.lexical_unit import Subject
from fedsim.components.decoder.greedy import Greedy, GreedyConfig
from fedsim.core.past import Past
from fedsim.core.types import Batch
from fedsim.generation.writer import Writer, load_writer

PROMPT = [3, 1, 4, 1, 5]


@pytest.fixture(scope="module")
def writer() -> Writer:
    return load_writer("tiny-llama")


def test_tokens_that_compete_have_their_own_scores_and_places() -> None:
    embedding, known = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 5])
    hidden = torch.ones(2, 4, 3)
    assert torch.allclose(Narrow(embedding[known])(hidden), (hidden @ embedding.T)[..., known])
    assert places(known).tolist() == [0, -1, 1, -1, -1, 2]


def test_all_layers_agree_with_the_model_and_an_early_exit_as_often_as_its_scores_say(writer: Writer) -> None:
    text = timed(writer, Greedy(GreedyConfig()), PROMPT, 8).text.tokens
    stack = writer.model.stack()  # pyright: ignore[reportCallIssue] - of a tiny Llama
    with torch.no_grad():
        early = Past().states(writer.model, [[*PROMPT, *text[:-1]]], layers=range(1))[0][0]
    said = stack.score(early[len(PROMPT) - 1 :]).argmax(-1).tolist()
    expected = sum(a == b for a, b in zip(said, text, strict=True)) / len(text)
    assert exits_agree(writer, (1, stack.depth), 0, PROMPT, text) == {1: expected, stack.depth: 1.0}


def test_a_control_without_steps_is_the_model_as_it_was(writer: Writer) -> None:
    none = Batch(torch.zeros(0, 1, dtype=torch.long), torch.zeros(0, 1, dtype=torch.long))
    subject = Subject("one", lambda: writer.model, none, {}, writer.tokenizer, 40, 4, 1e-3, 0.5, 1, 1)
    assert [subject.steps_of(True), subject.steps_of(False)] == [40, 40]
    assert [subject._replace(control=0).steps_of(own_way) for own_way in (True, False)] == [40, 0]
