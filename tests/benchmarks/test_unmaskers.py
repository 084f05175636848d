"""The benchmark of unmaskers: its long lists are copied or reversed, and its strategies are those of the registry."""

import torch

from benchmarks._brackets import GRAMMAR, Signs, is_valid
from benchmarks._brackets import draw as draw_brackets
from benchmarks._long_lists import draw
from benchmarks.unmaskers import strategies
from fedsim.components.unmasker._emptiness import completions, witness
from fedsim.components.unmasker._grammar import read_grammar
from fedsim.core import registry


def test_long_lists_are_copied_or_reversed_as_the_prompt_says() -> None:
    prompts, answers = draw(6, 2, 40, 0)
    for prompt, answer in zip(prompts.tolist(), answers.tolist(), strict=True):
        items = prompt[1:-1]
        assert answer == (items if prompt[0] == 26 else items[::-1])
    assert set(prompts[:, 0].tolist()) == {26, 27}
    assert set(draw(6, 1, 40, 0)[0][:, 0].tolist()) == {26}
    assert not torch.equal(draw(6, 2, 40, 1)[0], prompts)


def test_every_strategy_is_an_unmasker_and_has_a_label_of_its_own() -> None:
    known = registry.methods("component")
    assert all(known[own.name].hook == "unmasker" and own.make(8) for own in strategies())
    assert len({own.label for own in strategies()}) == len(strategies())


def test_drawn_brackets_are_balanced_and_the_grammar_says_so() -> None:
    generator = torch.Generator().manual_seed(0)
    grammar = read_grammar(GRAMMAR)
    for _ in range(30):
        text = draw_brackets(generator)
        assert is_valid(text)
        pattern = completions([(sign,) for sign in text], grammar.alphabet, "exact", ends=False)
        assert witness(grammar, pattern) == list(text)
    assert not any(map(is_valid, ("(", ")(", "(]", "a]")))
    assert Signs().decode(Signs().encode("([a])..")) == "([a]).."
