"""pyramid-drop keeps floor(share * N) tokens from each of its layers on, by attention of the layer that follows."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fedsim.core import registry
from fedsim.core.errors import NotApplicable
from fedsim.core.nets.visual import Stream, VisualReducer, visual_passes
from tests.models.vlms import WORDS, attended, examples, prepared, small_vlm

METHOD = registry.get("task", "visual-question-answering")
TASK = METHOD.make(METHOD.config())
STAGES: dict[str, Any] = {"layers": (1, 3), "shares": (0.5, 0.3)}


@torch.no_grad()
def test_shares_of_one_are_the_model_itself() -> None:
    own = examples()
    assert torch.equal(prepared("pyramid-drop", layers=(1, 3), shares=(1.0, 1.0))(*own), small_vlm()(*own))


@pytest.mark.paper_step("pyramid-drop", "shares of the image's tokens by stage")
@torch.no_grad()
def test_counts_are_shares_of_the_image_rounded_down_and_the_kept_are_nested() -> None:
    model = prepared("pyramid-drop", **STAGES)
    with visual_passes(model) as passes:
        model(*examples())
    assert passes[0].visual == [[16] * 3, [8] * 3, [8] * 3, [4] * 3]  # 0.3 * 16 = 4.8
    for one, other in ((0, 1), (1, 3)):
        for before, after in zip(passes[0].patches[one].tolist(), passes[0].patches[other].tolist(), strict=True):
            assert set(after) < set(before)
            assert after == sorted(after)


@pytest.mark.paper_step("pyramid-drop", "rank by the last token's attention in the next layer")
@torch.no_grad()
def test_tokens_are_ranked_by_the_row_that_the_next_layer_itself_computes() -> None:
    model, own = prepared("pyramid-drop", layers=(1,), shares=(0.4,)), examples()
    with visual_passes(model) as passes:
        model(*own)
    assert torch.equal(passes[0].patches[1], attended(own, 1).topk(6).indices.sort().values)


@torch.no_grad()
def test_positions_are_counted_anew_and_answers_do_not_choose() -> None:
    seen: dict[int, Stream] = {}

    class Looking(VisualReducer):
        def after_layer(self, before, after, layer):
            seen[layer.number] = before
            return after

    images, question, answer = examples()
    model = prepared("pyramid-drop", small_vlm(), **STAGES)
    model.reducers.append(Looking())
    with visual_passes(model) as passes:
        model(images, question, answer)
        model(images, question)
    assert torch.equal(passes[0].patches[3], passes[1].patches[3])
    tokens = seen[3].positions.shape[1]
    assert seen[3].positions.tolist() == [list(range(tokens))] * 3


@torch.no_grad()
def test_an_answer_is_written_as_a_pass_over_all_of_it_predicts() -> None:
    images, question, answer = examples()
    model = prepared("pyramid-drop", **STAGES)
    whole = model(images, question, answer)
    read = model.begin(model.encode(images, question), question)
    torch.testing.assert_close(torch.stack((read.scores, model.follow(read, answer[:, 0])), 1), whole)
    assert read.prompt_cache.store.held[3][0] < read.prompt_cache.store.held[1][0] < read.prompt_cache.store.held[0][0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": (1, 2), "shares": (0.5,)}, "a share for each layer"),
        ({"layers": (0,), "shares": (0.5,)}, "from 1 to 3"),
        ({"layers": (2, 4), "shares": (0.5, 0.2)}, "from 1 to 3"),
        ({"layers": (1, 2), "shares": (0.5, 0.6)}, "none larger than its predecessor"),
        ({"layers": (1,), "shares": (0.05,)}, "leaves none of 16"),
    ],
)
def test_stages_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(NotApplicable, match=message):
        prepared("pyramid-drop", **settings)


@pytest.mark.paper_step("pyramid-drop", "pruned training")
@torch.no_grad()
def test_the_answers_loss_is_that_of_the_gathered_sequence() -> None:
    """Layers are run by hand on what stays, and the same places predict the same targets as without a drop."""
    model, plain, (images, question, answer) = prepared("pyramid-drop", **STAGES), small_vlm(), examples()
    sequence = plain.sequence(plain.encode(images, question), question, answer)
    hidden, positions, patches, language = sequence.hidden_states, sequence.positions, 16, plain.language()
    for number in range(plain.visual.layers):
        if number in STAGES["layers"]:
            count = int(16 * STAGES["shares"][STAGES["layers"].index(number)])
            now = replace(
                sequence, hidden_states=hidden, positions=positions, patches=torch.arange(patches).expand(3, -1)
            )
            seen = language.view(number).attention(now)[:, :, now.last, 1 : 1 + patches].mean(1)
            kept = 1 + seen.topk(count).indices.sort(1).values
            behind = torch.arange(1 + patches, hidden.shape[1]).expand(3, -1)
            places = torch.cat((torch.zeros(3, 1, dtype=torch.long), kept, behind), 1)
            hidden = hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[2]))
            positions, patches = torch.arange(hidden.shape[1]).expand(3, -1), count
        mask = torch.full((hidden.shape[1],) * 2, -torch.inf, dtype=torch.double).triu(1)
        hidden = plain.layers[number](hidden, attention_mask=mask, positions=positions)
    by_hand = language.score(hidden[:, -2:])  # the sign in front of the answer, and its first token
    outputs = model(images, question, answer)
    torch.testing.assert_close(outputs, by_hand)
    labels = torch.cat((answer, torch.full((3, 1), WORDS.of("<eos>"))), 1)
    own = TASK.losses(outputs, labels)
    torch.testing.assert_close(own, F.cross_entropy(by_hand.mT, labels, reduction="none").mean(1))
    assert outputs.shape == plain(images, question, answer).shape


def test_no_gradient_goes_through_the_ranking_and_dropped_tokens_have_none() -> None:
    model, (images, question, answer) = prepared("pyramid-drop", layers=(1,), shares=(0.25,)), examples()
    states: list[torch.Tensor] = []

    class Keeping(VisualReducer):
        def before_layer(self, stream, layer):
            if layer.number == 1:
                stream.hidden_states.retain_grad()
                states.append(stream.hidden_states)
            return stream

    model.reducers.insert(0, Keeping())
    with visual_passes(model) as passes:
        model(images, question, answer)[..., 3].sum().backward()
    assert states[0].grad is not None
    moved = states[0].grad[:, 1:17].abs().sum(-1) > 0
    assert [own.nonzero()[:, 0].tolist() for own in moved] == passes[0].patches[1].tolist()
