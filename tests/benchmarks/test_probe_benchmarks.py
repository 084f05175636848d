"""The benchmarks of probes ask what they say: tested pairs are new, grids hold their digits, quarters fit."""

import re
from collections.abc import Callable

import pytest
import torch

from benchmarks import probes
from benchmarks._analogies import as_text, draw_prompts, make_corpus
from benchmarks.devil import _quarter
from benchmarks.devil_digits import Grids, draw_grids, unordered
from benchmarks.hyperdimensional_probe import _Case, _disjoint
from tests.data.installed import need


def test_tested_pairs_are_in_no_training_prompt_and_their_words_are() -> None:
    corpus = make_corpus()
    prompts = draw_prompts(corpus, 1250, torch.Generator().manual_seed(0))
    empty = torch.zeros(0)
    trained, tested = _disjoint(_Case(corpus, prompts, empty, empty, empty, empty))
    known = [prompt for prompt, is_trained in zip(prompts, trained.tolist(), strict=True) if is_trained]
    asked = [prompt for prompt, is_tested in zip(prompts, tested.tolist(), strict=True) if is_tested]
    pairs = {(own.relation, *own.words[start : start + 2]) for own in known for start in (0, 2)}
    words = {word for own in known for word in own.words}
    assert len(asked) > 50
    assert not pairs & {(own.relation, *own.words[2:]) for own in asked}
    assert {own.words[3] for own in asked} <= words


def test_prompts_lack_their_last_word() -> None:
    corpus = make_corpus()
    for own in draw_prompts(corpus, 100, torch.Generator().manual_seed(1)):
        text = as_text(own, corpus.concepts)
        assert text.endswith(f"= {corpus.concepts[own.words[2]]} :")
        assert corpus.concepts[own.words[3]] not in text.split()
        assert all(pair in corpus.pairs[own.relation] for pair in (own.words[:2], own.words[2:]))


def test_grids_hold_their_digits_in_their_cells() -> None:
    digits = torch.arange(10.0).view(10, 1, 1, 1).expand(10, 1, 14, 14) + 1
    grids = draw_grids(digits, torch.arange(10), 20, torch.Generator().manual_seed(0))
    for image, digit, cells in zip(grids.images, grids.digits.tolist(), grids.cells.tolist(), strict=True):
        seen = image[0].view(4, 14, 4, 14).amax((1, 3)).flatten()
        assert [seen[cell].item() - 1 for cell in cells] == digit
        assert digit == sorted(set(digit))


@pytest.mark.parametrize(("place", "quarter"), [((0, 1), 0), ((2, 6), 1), ((6, 0), 2), ((4, 4), 3)])
def test_the_middle_of_a_map_belongs_to_no_quarter(place: tuple[int, int], quarter: int) -> None:
    found = torch.zeros(7, 7)
    found[place], found[3, 3] = 1, 2
    assert _quarter(found) == quarter


def test_a_sentence_that_documents_repeat_belongs_to_the_first() -> None:
    documents = ["One is here. Both say this. One ends.", "Two is here. Both say this. Two ends. Two ends."]
    assert list(probes._sentences(documents)) == [
        ["One is here.", "Both say this.", "One ends."],
        ["Two is here.", "Two ends."],
    ]


@pytest.mark.parametrize("make", [probes.topics, lambda: probes.with_names(10)])
def test_public_texts_and_those_of_clients_share_no_sentence(make: Callable[[], list[probes.Text]]) -> None:
    need("gensim")
    texts = make()
    public, others = (
        {sentence for text in texts if text.is_public is wanted for sentence in re.split(r"(?<=[.!?]) ", text.words)}
        for wanted in (True, False)
    )
    assert len(public) > 100
    assert len(others) > 100
    assert not public & others


def test_captions_in_any_order_say_the_same_digits_of_the_same_cells() -> None:
    digits, cells = torch.tensor([[1, 3, 4, 9], [0, 2, 5, 6]]), torch.tensor([[7, 8, 2, 0], [1, 4, 3, 15]])
    own = unordered(Grids(torch.zeros(2, 1, 56, 56), digits, cells), torch.Generator().manual_seed(0))
    assert torch.equal(own.digits.sort(1).values, digits.repeat(4, 1))
    where = dict(zip(digits.flatten().tolist(), cells.flatten().tolist(), strict=True))
    assert own.cells.flatten().tolist() == [where[digit] for digit in own.digits.flatten().tolist()]
    assert len(set(own.digits[:, 0].tolist())) > 2  # the first word is not the smallest digit each time
