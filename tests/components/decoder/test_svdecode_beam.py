"""Beam search by steered scores: the best of all texts by enumeration, and the plain search at strength 0."""

import copy
import itertools
import math

import pytest
import torch

from fedsim.components.decoder._steering import steer_scores
from fedsim.components.decoder.svdecode import BesideBase, calibrate
from fedsim.core.errors import FedsimError
from fedsim.core.types import Batch, Limits
from fedsim.generation import generate
from tests.components.generating import make, prompts, sources, tiny_llama

SMALL, LENGTH, STOP, STRENGTH = 5, 4, 3, 3.0
LIMITS = Limits(max_new_tokens=LENGTH, stop_tokens=frozenset({STOP}))


def pair() -> BesideBase:
    """Two models of the same shape; the tuned one is near its base."""
    base, other = tiny_llama(SMALL, 0), tiny_llama(SMALL, 1)
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        for parameter, more in zip(tuned.parameters(), other.parameters(), strict=True):
            parameter.add_(more, alpha=0.3)
    return BesideBase(tuned, base)


def steered_law(model: BesideBase, prompt: list[int]) -> dict[tuple[int, ...], float]:
    """ln of the steered probability of every text that ends at a stop or at its longest."""
    every = torch.tensor([[*prompt, *text] for text in itertools.product(range(SMALL), repeat=LENGTH)])
    with torch.no_grad():
        scores = steer_scores(model.tuned(every), model.base(every), STRENGTH, 0.1, refuses=False).double()
    each = scores.log_softmax(-1)[:, len(prompt) - 1 : -1].gather(-1, every[:, len(prompt) :, None])[..., 0]
    law: dict[tuple[int, ...], float] = {}
    for text, costs in zip(every[:, len(prompt) :].tolist(), each.tolist(), strict=True):
        end = text.index(STOP) + 1 if STOP in text else LENGTH
        law[tuple(text[:end])] = sum(costs[:end])
    return law


@pytest.mark.paper_step("svdecode-beam", "beam search of steered scores")
@pytest.mark.parametrize("prompt", [[1, 2], [4], [0, 0, 2]])
def test_the_text_is_the_best_of_all_by_steered_scores(prompt: list[int]) -> None:
    model = pair().eval()
    law = steered_law(model, prompt)
    assert sum(map(math.exp, law.values())) == pytest.approx(1)
    best = max(law, key=lambda text: law[text] / len(text))
    method = make("svdecode-beam", strength=STRENGTH, outside="left", width=SMALL**3)
    (found,) = generate(method, model, prompts(prompt), LIMITS, sources(1))
    assert found.tokens == best


def test_steering_changes_the_text_and_strength_0_is_the_plain_search() -> None:
    model, asked = pair(), prompts([1, 2], [4], [0, 0, 2])
    longer = Limits(max_new_tokens=12)
    plain = generate(make("beam", width=3), model.tuned, asked, longer, sources(3))
    still, moved = (
        generate(make("svdecode-beam", strength=strength, outside="left", width=3), model, asked, longer, sources(3))
        for strength in (0.0, 5.0)
    )
    assert [own.tokens for own in still] == [own.tokens for own in plain] != [own.tokens for own in moved]
    assert [own.trace for own in still] == [own.trace for own in plain]
    assert moved[0].trace.series()["rows"][0] == 2, "one beginning, two models"


def test_what_is_refused_is_never_written() -> None:
    model = pair()
    (one,) = generate(
        make("svdecode-beam", strength=STRENGTH, confidence=1.0, width=4), model, prompts([1, 2]), LIMITS, sources(1)
    )
    (greedy,) = generate(make("greedy"), model.tuned, prompts([1, 2]), LIMITS, sources(1))
    assert one.tokens == greedy.tokens, "the likeliest token alone is sure"


def test_it_is_calibrated_as_svdecode_is() -> None:
    model, tokens = pair(), torch.randint(SMALL, (20, 8), generator=torch.Generator().manual_seed(0))
    examples, method = Batch(tokens[:, :-1], tokens[:, 1:]), make("svdecode-beam", strength="calibrate")
    assert method.fit_to_texts(model, examples).config.strength == calibrate(model, examples, method.config)
    with pytest.raises(FedsimError, match="strength = 'calibrate' needs texts of clients"):
        generate(method, model, prompts([1]), LIMITS, sources(1))
    with pytest.raises(FedsimError, match="neither removable adapters nor a base"):
        generate(make("svdecode-beam", strength=1.0), model.tuned, prompts([1]), LIMITS, sources(1))
