"""The loop over layers: what it promises to reducers, in training and in writing."""

import pytest
import torch
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.core.nets.kept_tokens import kept_tokens
from fedsim.core.nets.visual import Stream, VisualReducer, visual_passes
from tests.models.vlms import WORDS, examples, small_vlm


class Dropping(VisualReducer):
    """Drops some of the tokens in front of given layers, other numbers of each image."""

    def __init__(self, layers: tuple[int, ...], seed: int = 0, is_contiguous: bool = False) -> None:
        super().__init__()
        self.layers, self.seed, self.is_contiguous = layers, seed, is_contiguous

    def before_layer(self, stream: Stream, layer) -> Stream:
        if layer.number not in self.layers:
            return stream
        source = torch.Generator().manual_seed(self.seed + layer.number)
        kept = torch.rand(len(stream.patches), 16, generator=source) < 0.5
        found = stream.keep_where(kept.gather(1, stream.patches.clamp_min(0)))
        return found.reindex_positions() if self.is_contiguous else found


class Sharing(VisualReducer):
    """Takes all attention from the tokens that `Dropping` drops."""

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer = layer

    def before_layer(self, stream: Stream, layer) -> Stream:
        if layer.number != self.layer:
            return stream
        kept = torch.rand(len(stream.patches), 16, generator=torch.Generator().manual_seed(layer.number)) < 0.5
        shares = torch.ones(stream.positions.shape, dtype=torch.double)
        shares[:, stream.visual] = kept.double()
        return Stream(**{**vars(stream), "shares": shares})


def written(model, images: Tensor, question: Tensor, answer: Tensor) -> Tensor:
    read = model.begin(model.encode(images, question), question)
    found = [read.scores]
    found += [model.follow(read, token) for token in answer.unbind(1)]
    return torch.stack(found, 1)


@torch.no_grad()
def test_writing_step_by_step_equals_reading_anew() -> None:
    images, question, answer = examples()
    answer = answer.repeat(1, 3)
    for reducers in ([], [Dropping((1,))], [Dropping((0, 2))], [Dropping((1, 3), is_contiguous=True)]):
        model = small_vlm(*reducers)
        torch.testing.assert_close(written(model, images, question, answer), model(images, question, answer))


@torch.no_grad()
def test_leaving_tokens_out_equals_hiding_them() -> None:
    images, question, answer = examples()
    dropped, shared = (small_vlm(own)(images, question, answer) for own in (Dropping((2,)), Sharing(2)))
    torch.testing.assert_close(dropped, shared)
    assert not torch.allclose(dropped, small_vlm()(images, question, answer))


@torch.no_grad()
def test_an_image_is_answered_the_same_beside_others() -> None:
    model, (images, question, answer) = small_vlm(), examples()
    model.reducers.append(Dropping((1,)))
    first = small_vlm(Dropping((1,)))(images[:1], question[:1], answer[:1])
    together = model(images, question, answer)
    torch.testing.assert_close(together[:1], first)


@torch.no_grad()
def test_positions_from_0_on_are_the_usual_ones() -> None:
    model, (images, question, answer) = small_vlm(), examples()
    sequence = model.sequence(model.encode(images, question), question, answer)
    assert torch.equal(sequence.positions, torch.arange(1 + 16 + 7).expand(3, -1))
    assert torch.equal(model.read(sequence.reindex_positions()).hidden_states, model.read(sequence).hidden_states)


@torch.no_grad()
def test_some_visual_tokens_alone_can_be_read() -> None:
    model, (images, question, _) = small_vlm(), examples()
    encoded = model.encode(images, question)
    whole = encoded.keep(torch.arange(16).expand(3, -1))
    assert torch.equal(model.begin(whole, question).scores, model.begin(encoded, question).scores)
    few = encoded.keep(torch.tensor([[3, 9]] * 3))
    read = model.begin(few, question, is_contiguous=True)
    assert read.prompt_cache.following[0].tolist() == [1 + 2 + 6] * 3
    assert model.begin(few, question).prompt_cache.following[0].tolist() == [1 + 16 + 6] * 3


def test_what_is_dropped_has_no_gradient_behind_the_drop() -> None:
    model, (images, question, answer) = small_vlm(), examples()
    encoded = model.encode(images, question)
    kept = torch.tensor([[3, 9]] * 3)
    sequence = model.sequence(encoded.keep(kept), question, answer)
    scores = model.language().score(model.read(sequence).hidden_states[:, -1])
    (gradient,) = torch.autograd.grad(scores.sum(), encoded.hidden_states)
    assert gradient.abs().sum((0, 2)).nonzero()[:, 0].tolist() == [3, 9]


@torch.no_grad()
def test_moments_come_in_order_and_notes_reach_every_step() -> None:
    seen: list[str] = []

    class Telling(VisualReducer):
        reads_all_of_encoder = True

        def look(self, images, question):
            seen.append("look")
            return {"first": images.flatten(1).sum(1)}

        def after_encoder_layer(self, before, after, layer):
            assert (before.front, before.tokens) == (1, None)
            seen.append(f"encoder {layer.number}")
            return after.with_notes(last=torch.full((3,), layer.number))

        def after_projection(self, stream):
            assert stream.tokens is not None
            assert stream.tokens[:, 1:5].tolist() == question.tolist()
            seen.append("projected")
            return stream

        def before_layer(self, stream, layer):
            seen.append(f"before {layer.number}")
            return stream

        def after_layer(self, before, after, layer):
            assert not torch.equal(before.hidden_states, after.hidden_states)
            return after

        def after_prompt(self, held):
            seen.append(f"held {held.store.held[3]}")

        def after_step(self, hidden, layer, notes):
            seen.append(f"step {layer} {notes['last'].tolist()} {len(notes['first'])}")
            return hidden

    (images, question, answer), model = examples(), small_vlm(Telling())
    written(model, images, question, answer)
    assert seen == [
        "look", "encoder 0", "encoder 1", "encoder 2", "projected", *(f"before {number}" for number in range(4)),
        "held [23, 23, 23]", *(f"step {number} [2, 2, 2] 3" for number in range(4)),
    ]  # fmt: skip


@torch.no_grad()
def test_a_layer_that_ran_shows_the_attention_it_paid_and_computes_nothing_again() -> None:
    shown: list[tuple[Tensor, Tensor]] = []

    class Looking(VisualReducer):
        def after_encoder_layer(self, before, after, layer):
            return self.look_at(before, after, layer, model.vision().view(layer.number))

        def after_layer(self, before, after, layer):
            return self.look_at(before, after, layer, model.language().view(layer.number))

        def look_at(self, before, after, layer, fresh):
            run = [calls.copy(), layer.attention(before), layer.attention(before, slice(2, 4))]
            assert run[0] == calls
            shown.append((run[1], fresh.attention(before)))
            shown.append((run[2], fresh.attention(before, slice(2, 4))))
            other = before.with_hidden_states(2 * before.hidden_states + 1)
            shown.append((layer.attention(other), fresh.attention(other)))  # no layer has read this
            return after

    calls = {"projections": 0}
    model = small_vlm(Dropping((1, 2)), Looking(), dropout=0.5).train()
    for block in (*model.encoder, *model.layers):
        block.self_attn.q_proj.register_forward_hook(  # type: ignore[union-attr]
            lambda *_: calls.update(projections=calls["projections"] + 1)
        )
    model(*examples())
    assert len(shown) == 3 * (2 + 4)
    for found, expected in shown:
        torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_a_reducer_that_only_asks_the_last_encoder_layer_does_not_let_it_run() -> None:
    asked, ran = list[int](), list[int]()

    class Asking(VisualReducer):
        asks_all_of_encoder = True

        def before_encoder_layer(self, stream, layer):
            asked.append(layer.number)
            return stream.with_notes(seen=layer.attention(stream, slice(0, 1)))

        def after_projection(self, stream):
            assert stream.notes["seen"].shape == (3, 4, 1, 17)
            return stream

    for layer, runs in ((-2, [0, 1]), (-1, [0, 1, 2]), (-3, [0, 1])):
        model = small_vlm(Asking(), feature_layer=layer)
        for number, block in enumerate(model.encoder):
            block.register_forward_hook(lambda *_, number=number: ran.append(number))
        found = model(*examples())
        assert (asked, ran) == ([0, 1, 2], runs)
        assert torch.equal(found, small_vlm(feature_layer=layer)(*examples()))
        asked.clear()
        ran.clear()


@torch.no_grad()
def test_the_number_of_kept_tokens_is_reported() -> None:
    model, (images, question, answer) = small_vlm(Dropping((1,))), examples()
    with kept_tokens(model) as kept, visual_passes(model) as passes:
        model(images, question, answer)
    assert list(kept["reducers.0"][0]) == passes[0].visual[-1]
    assert len(set(kept["reducers.0"][0])) > 1


def test_answers_end_where_the_end_is_likeliest() -> None:
    model, (images, question, _) = small_vlm(), examples()
    assert all(len(own) <= 5 for own in model.answers(images, question, 5))
    with torch.no_grad():
        model.lm_head.weight[WORDS.of("<eos>")] = 50 * model.lm_head.weight.abs().sum(0)
    found = model.answers(images, question)
    scores = model(images, question)[:, 0].argmax(-1).tolist()
    assert [own[:1] for own in found] == [() if score == model.end else (score,) for score in scores]


@torch.no_grad()
def test_images_alone_are_asked_what_the_model_was_told() -> None:
    model, (images, question, answer) = small_vlm(), examples()
    with pytest.raises(FedsimError, match="add 'extra-inputs' and 'labels' to threat.knows"):
        model(images)
    whole = model(images, question, answer)
    model.dialogue = (question, answer)
    assert torch.equal(model(images), whole)
    torch.testing.assert_close(model(images.repeat(2, 1, 1, 1)), whole.repeat(2, 1, 1))
    model.dialogue = (question, None)
    torch.testing.assert_close(model(images[:1]), whole[:1, :1])
