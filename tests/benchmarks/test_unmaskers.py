"""The benchmark of unmaskers: its long lists are copied or reversed, and its strategies are those of the registry."""

import torch

from benchmarks import _records
from benchmarks._brackets import GRAMMAR, SIGNS, is_valid
from benchmarks._brackets import draw as draw_brackets
from benchmarks._long_lists import Long, draw, draw_repeats, draw_reversed
from benchmarks.unmaskers import Language, grammars, others, strategies, windows
from fedsim.components.unmasker._emptiness import completions, witness
from fedsim.components.unmasker._grammar import read_grammar
from fedsim.core import registry
from fedsim.core.types import InputSpec
from tests.components.generating import make
from tests.components.unmasking import tiny_llada


def test_long_lists_are_copied_or_reversed_as_the_prompt_says() -> None:
    prompts, answers = draw(6, 40, 0)
    for prompt, answer in zip(prompts.tolist(), answers.tolist(), strict=True):
        items = prompt[1:-1]
        assert answer == (items if prompt[0] == 26 else items[::-1])
    assert set(prompts[:, 0].tolist()) == {26, 27}
    assert not torch.equal(draw(6, 40, 1)[0], prompts)
    backwards, answers = draw_reversed(5, 0)
    assert (backwards[:, 0] == 27).all()
    assert torch.equal(backwards[:, 1:-1].flip(1), answers)


def test_repeats_fill_512_tokens_and_a_tenth_of_the_prompt_is_drawn_anew() -> None:
    prompts, answers = draw_repeats(50, 0)
    assert prompts.shape == answers.shape == (50, 256)
    motif = answers[:, :16]
    assert torch.equal(answers, motif.repeat(1, 16))
    drawn = (prompts != motif.repeat(1, 16)).double().mean()
    # 0.1 times the 25 in 26 draws that differ; four standard errors of 12,800 letters are 0.0105.
    assert abs(float(drawn) - 0.1 * 25 / 26) < 0.0105


def test_windows_are_compared_with_full_passes_text_by_text() -> None:
    model = registry.get("model", "tiny-llada")
    sizes = {"width": 16, "blocks": 1, "hidden": 16, "heads": 2}
    own = model.make(model.config.model_validate(sizes), InputSpec((14,), 29, (), (), vocabulary=29)).eval()
    prompts, answers = draw(6, 3, 0)
    plain, threshold, window = windows(Long(own, prompts, answers), [(6, 6, 1)])
    assert plain.passes == window.passes == threshold.passes == "6.0"  # a fresh model is nowhere as sure as 0.9
    assert plain.positions == window.positions == str(6 * 14)  # a full pass every step
    assert "as one a step 100.0%" in window.right
    assert plain.seconds.endswith("1.00 times faster [1.00, 1.00]")


def test_every_strategy_is_an_unmasker_and_has_a_label_of_its_own() -> None:
    known = registry.methods("component")
    assert all(known[strategy.name].hook == "unmasker" and strategy.make(8) for strategy in strategies())
    assert len({strategy.label for strategy in strategies()}) == len(strategies())


def test_drawn_brackets_are_balanced_and_the_grammar_says_so() -> None:
    generator = torch.Generator().manual_seed(0)
    grammar = read_grammar(GRAMMAR)
    for _ in range(30):
        text = draw_brackets(generator)
        assert is_valid(text)
        pattern = completions([(sign,) for sign in text], grammar.alphabet, "exact", ends=False)
        assert witness(grammar, pattern) == list(text)
    assert not any(map(is_valid, ("(", ")(", "(]", "a]")))
    assert SIGNS.decode(SIGNS.encode("([a])..")) == "([a]).."


def test_drawn_objects_say_what_is_asked_and_the_grammar_says_so() -> None:
    generator, signs = torch.Generator().manual_seed(0), _records.SIGNS
    grammar = read_grammar(_records.GRAMMAR)
    for number in range(20):
        asked, answer = _records.draw(generator)
        assert (len(signs.encode(asked)), len(answer) <= _records.PLACES) == (_records.QUESTION_LENGTH, True)
        found = _records.read(answer)
        assert isinstance(found, dict)
        said = "".join(key + "".join(map(str, own if isinstance(own, list) else [own])) for key, own in found.items())
        assert said == asked.rstrip(";").rstrip(".")
        if number < 5:
            pattern = completions([(sign,) for sign in answer], grammar.alphabet, "exact", ends=False)
            assert witness(grammar, pattern) == list(answer)
    assert not any(_records.read(own) for own in ("{'a':1", "{'a':}", "[1]", "{'a':1}}", "{a:1}"))


def test_texts_of_a_language_are_counted_by_what_they_say() -> None:
    model = registry.get("model", "tiny-llada")
    sizes = {"width": 16, "blocks": 1, "hidden": 16, "heads": 2}
    own = model.make(model.config.model_validate(sizes), InputSpec((8,), 6, (), (), vocabulary=6)).eval()
    language = Language("brackets", own, SIGNS, GRAMMAR, ((),) * 4, 8, is_valid, ("()",) * 4, lambda *_: True)
    bound = grammars(language)[1::2]
    assert all("valid 100.0%" in line.right for line in bound)
    assert all("as asked 100.0%" in line.right for line in bound)
    assert float(bound[2].passes) <= 2  # eight places, four a step


def test_tokens_other_than_the_likeliest_are_counted_when_they_are_written() -> None:
    model = tiny_llada(std=1.0)
    assert others(make("threshold"), model, (1, 2, 3), 8) == 0
    # A bonus that outweighs every score, and a threshold that nothing passes: first likeliest tokens stay.
    assert others(make("credit-decoding", alpha=1000.0, threshold=2.0), model, (1, 2, 3), 8) > 0
