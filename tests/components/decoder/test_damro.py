"""DAMRO: the contrast of two branches against forward passes from the beginning, greedy text, and hand-made scores."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.components.decoder.damro import _Looking, contrast_scores
from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.hooks import GenerationInputs
from fedsim.core.nets.visual import Stream
from fedsim.core.types import Generated, Limits
from fedsim.generation import generate
from tests.components.generating import LEAKING, make, prompts, sources, tiny_llama
from tests.models.vlms import PATCHES, examples, prepared, small_vlm

IMAGES, QUESTIONS, _ = examples(4)
ASKED = GenerationInputs(tuple(map(tuple, QUESTIONS.tolist())), {"image": IMAGES})
LENGTH = 3


def written(
    asked: GenerationInputs = ASKED, model: Any = None, batch_size: int = 8, **settings: Any
) -> list[Generated]:
    own = small_vlm() if model is None else model
    limits = Limits(max_new_tokens=LENGTH)
    return generate(make("damro", **settings), own, asked, limits, sources(len(asked)), batch_size=batch_size)


def tokens(found: list[Generated]) -> list[tuple[int, ...]]:
    return [own.tokens for own in found]


@torch.no_grad()
def plain() -> list[tuple[int, ...]]:
    model = small_vlm()
    model.end = -1  # so that every answer has the same length
    return model.answers(IMAGES, QUESTIONS, LENGTH)


@torch.no_grad()
def steps(**settings: Any) -> tuple[Any, list[Any]]:
    """Run the decoder by hand; return its model and the states behind each step."""
    model, method = small_vlm(), make("damro", **settings)
    context: Any = SimpleNamespace(generators=sources(len(ASKED)), limits=None, tokenizer=None)
    state, found = method.start(model, ASKED, context), list[Any]()
    for _ in range(3):
        state, _ = method.step(model, state, context)
        found.append(state)
    return model, found


@pytest.mark.parametrize("cutoff", [0.0, 0.1])
def test_without_strength_the_text_is_the_models_own(cutoff: float) -> None:
    found = written(strength=0.0, cutoff=cutoff)
    assert tokens(found) == plain()
    assert found[0].trace.series()["rows"] == (1,) * LENGTH
    assert len(set(plain())) > 1, "texts that are all alike would prove little"


def test_with_every_token_an_outlier_both_branches_say_the_same() -> None:
    _, states = steps(outliers=PATCHES, strength=3.0)
    for state in states:
        for every, few in state.last:
            torch.testing.assert_close(few, every)
    assert tokens(written(outliers=PATCHES, strength=3.0)) == plain()


@pytest.mark.paper_step("damro", "tokens below a share of the likeliest are left out")
def test_what_is_drawn_is_plausible_with_all_visual_tokens() -> None:
    _, states = steps(strength=5.0, cutoff=0.3, temperature=2.0)
    for state in states:
        for text, (every, _) in zip(state.tokens, state.last, strict=True):
            odds = every.softmax(-1)
            assert odds[text[-1]] >= 0.3 * odds.max() * (1 - 1e-12)  # the product rounds


@pytest.mark.parametrize("recount", [True, False])
def test_both_branches_equal_reading_from_the_beginning(recount: bool) -> None:
    model, states = steps(outliers=3, recount=recount)
    with torch.no_grad():
        encoded = model.encode(IMAGES, QUESTIONS)
        for count, state in enumerate(states):
            answer = torch.tensor(state.tokens)[:, QUESTIONS.shape[1] : QUESTIONS.shape[1] + count]
            few = model.sequence(encoded.keep(torch.tensor(state.outliers)), QUESTIONS, answer)
            few = few.reindex_positions() if recount else few
            for number, sequence in enumerate((model.sequence(encoded, QUESTIONS, answer), few)):
                whole = model.language().score(model.read(sequence).hidden_states[:, -1])
                torch.testing.assert_close(torch.stack([own[number] for own in state.last]), whole)


def test_a_state_can_be_stepped_again() -> None:
    model, (first, second, _) = steps()
    context: Any = SimpleNamespace(generators=sources(len(ASKED)), limits=None, tokenizer=None)
    with torch.no_grad():
        again, _ = make("damro").step(model, first, context)
    assert again.tokens == second.tokens


@pytest.mark.paper_step("damro", "contrast of all tokens with the outliers")
def test_the_closed_form() -> None:
    every, few = torch.tensor([2.0, 1.0, 0.0]), torch.tensor([2.0, 0.0, 0.0])
    assert contrast_scores(every, few, 1.0, 0.1).tolist() == [2.0, 2.0, 0.0]
    assert contrast_scores(every, few, 1.0, 0.2).tolist() == [2.0, 2.0, -torch.inf]
    assert contrast_scores(every, few, 1.0, 0.0).tolist() == [2.0, 2.0, 0.0]


def looked(queries: Tensor, keys: Tensor, is_joint: bool) -> Tensor:
    """Return the noted attention of the class token where heads compare these, (B, patches)."""
    rows, patches = len(queries), keys.shape[2] - 1
    weights = (queries @ keys.mT / queries.shape[-1] ** 0.5).softmax(-1)
    layer: Any = SimpleNamespace(
        number=1, queries_keys=lambda _: (queries, keys), attention=lambda _, own: weights[:, :, own]
    )
    stream = Stream(
        torch.zeros(rows, 1 + patches, 4), torch.zeros(rows, 1 + patches), torch.arange(patches).expand(rows, -1), 1
    )
    own = _Looking(1, patches, is_joint)
    return own.after_encoder_layer(stream, stream, layer).notes["damro.attention"]


@pytest.mark.parametrize("is_joint", [True, False])
def test_a_patch_with_the_class_tokens_query_as_its_key_is_an_outlier(is_joint: bool) -> None:
    queries, keys = torch.randn(2, 3, 2, 9, 4, generator=torch.Generator().manual_seed(0))
    keys[:, :, 1 + 5] = 20 * queries[:, :, 0]
    assert looked(queries, keys, is_joint).argmax(1).tolist() == [5, 5, 5]


@pytest.mark.paper_step("damro", "outliers by the class token's attention")
def test_outliers_are_those_of_the_projected_layer_in_the_order_that_is_asked_for() -> None:
    model, (state, *_) = steps(outliers=4, order="attention", heads="mean")
    rows: list[Tensor] = []
    with torch.no_grad():
        stream = model.vision().embed(IMAGES)
        patches = torch.arange(PATCHES).expand(4, -1)
        own = Stream(stream, torch.zeros(stream.shape[:2], dtype=torch.long), patches, front=1)
        for number in range(model.visual.feature_layer + 1):
            rows.append(model.vision().view(number).attention(own).mean(1)[:, 0, 1:])
            own = own.with_hidden_states(model.vision().run(number, own))
    expected = rows[-1].topk(4).indices
    assert torch.equal(torch.tensor(state.outliers), expected)
    assert torch.equal(make("damro", outliers=4, heads="mean").outliers(model, IMAGES, QUESTIONS), expected)
    _, (sorted_, *_) = steps(outliers=4, heads="mean")
    assert torch.equal(torch.tensor(sorted_.outliers), expected.sort(1).values)


def test_it_contrasts_what_a_reducer_left() -> None:
    model = prepared("cls-topk", kept=6)
    found = written(model=model, outliers=3)
    assert all(own.ending == "length" for own in found)
    assert len(model.reducers) == 1
    alike = written(model=model, outliers=PATCHES, strength=3.0, recount=False)
    assert tokens(alike) == tokens(written(model=model, strength=0.0))


@pytest.mark.parametrize(("outliers", "fits"), [(2, False), (PATCHES - 1, False), (PATCHES, True)])
def test_random_positions_need_all_tokens_which_the_second_branch_lacks(outliers: int, fits: bool) -> None:
    model = prepared("random-tokens", kept=5)
    if fits:
        assert len(written(model=model, outliers=outliers)) == len(ASKED)
        return
    message = f"among all 16 visual tokens of an image, and only {outliers} are left. Decoder 'damro'"
    with pytest.raises(NotApplicable, match=message):
        written(model=model, outliers=outliers)
    assert len(written(model=model, outliers=outliers, strength=0.0)) == len(ASKED), "a single branch has all tokens"


@pytest.mark.parametrize(
    ("model", "asked", "settings", "message"),
    [
        (tiny_llama(), prompts([LEAKING]), {}, "needs visual tokens, and model .* has none. Choose a model"),
        (None, prompts([1, 2, 3, 4]), {}, "contrasts views of an image, and no image was passed"),
        (None, ASKED, {"outliers": 17}, "outliers is 17, and an image has 16 visual tokens: expected at most as many"),
        (None, GenerationInputs(ASKED.prompts, {"image": IMAGES[..., :21]}), {}, "reads images of 4 x 4 patches"),
    ],
)
def test_bad_input_is_named(model: Any, asked: GenerationInputs, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(FedsimError, match=message):
        written(asked, model, **settings)
