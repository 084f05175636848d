"""must-drop merges like windows, protects what the class token looks at, and drops what nobody looks at."""

from typing import Any

import pytest
import torch

from fedsim.components.token_reducer.must_drop import find_unneeded, merge_windows
from fedsim.core.errors import NotApplicable
from fedsim.core.nets.visual import Stream, VisualReducer, visual_passes
from fedsim.models import _vision_language
from tests.models.vlms import examples, prepared, small_vlm

ALL_GO: dict[str, Any] = {"layers": (1, 2), "overall": 1e9, "single": 1e9, "likeness": 2.0}


def encoder_stream(hidden: torch.Tensor) -> Stream:
    """A class token and patches (B, N, width)."""
    rows, patches, _ = hidden.shape
    whole = torch.cat((torch.zeros_like(hidden[:, :1]), hidden), 1)
    numbers = torch.arange(patches).expand(rows, -1)
    return Stream(whole, torch.zeros(rows, patches + 1, dtype=torch.long), numbers, front=1)


def pair(cosine: float) -> torch.Tensor:
    """Four tokens of a window, two of each of two directions, with so large a mean cosine."""
    # Ordered pairs: 4 of 12 are of equal tokens, so the mean is (4 + 8 c) / 12.
    c = (12 * cosine - 4) / 8
    one, other = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([c, (1 - c**2) ** 0.5, 0.0])
    return torch.stack((one, one, other, other)).double()


def grid_of(windows: list[torch.Tensor]) -> torch.Tensor:
    """Patches (4 x 4, width) of four windows of 2 x 2, in the raster's order."""
    cells = torch.zeros(4, 4, windows[0].shape[1], dtype=torch.double)
    for number, window in enumerate(windows):
        row, column = 2 * (number // 2), 2 * (number % 2)
        cells[row : row + 2, column : column + 2] = window.view(2, 2, -1)
    return cells.flatten(0, 1)


@torch.no_grad()
def test_without_merging_and_thresholds_it_is_the_model_itself() -> None:
    own = examples()
    model = prepared("must-drop", likeness=2.0, overall=0.0, layers=(1, 2))
    assert torch.equal(model(*own), small_vlm()(*own))


@pytest.mark.paper_step("must-drop", "merging of alike windows in the encoder")
def test_windows_are_merged_from_the_stated_likeness_on() -> None:
    apart = torch.eye(4).double()[:, :3]
    image = grid_of([pair(0.81), pair(0.79), torch.ones(4, 3).double(), apart])
    found = merge_windows(encoder_stream(image[None]), (4, 4), 2, 0.8)
    assert found.patches.tolist() == [[0, 2, 3, 6, 7, 8, 10, 11, 14, 15]]  # windows 0 and 2 are one token each
    torch.testing.assert_close(found.hidden_states[0, 1], pair(0.81).mean(0))
    torch.testing.assert_close(found.hidden_states[0, 6], torch.ones(3).double())
    sizes = torch.tensor([4 if number in (0, 8) else 1 for number in found.patches[0].tolist()]).double()
    torch.testing.assert_close((sizes[:, None] * found.hidden_states[0, 1:]).sum(0) / 16, image.mean(0))


@pytest.mark.paper_step("must-drop", "dropping by both attention criteria")
def test_only_what_both_criteria_call_low_is_unneeded() -> None:
    rows = torch.tensor([[[0.9, 0.02, 0.06, 0.02], [0.7, 0.02, 0.02, 0.26]]])  # columns: high, low, single, overall
    assert find_unneeded(rows, overall=0.05, single=0.05)[0].tolist() == [False, True, False, False]
    assert find_unneeded(rows, overall=0.2, single=0.1)[0].tolist() == [False, True, True, False]
    assert not find_unneeded(rows, overall=0.0, single=1.0).any()
    assert not find_unneeded(rows, overall=1.0, single=0.0).any()


@torch.no_grad()
def test_where_all_others_go_the_protected_tokens_stay_through_every_drop() -> None:
    heads: list[torch.Tensor] = []

    class Looking(VisualReducer):
        reads_all_of_encoder = True

        def after_encoder_layer(self, before, after, layer):
            if layer.number == 2:
                heads.append(layer.attention(before)[:, :, 0, 1:].mean(1))
            return after

    own, model = examples(), prepared("must-drop", protected_share=0.2, **ALL_GO)
    small_vlm(Looking())(*own)
    with visual_passes(model) as passes:
        model(*own)
    expected = heads[0].topk(4).indices.sort().values  # ceil(0.2 * 16)
    assert torch.equal(passes[0].patches[2], expected)
    assert torch.equal(passes[0].patches[3], expected)


@torch.no_grad()
def test_it_projects_each_layers_queries_once_and_keeps_what_attention_computed_anew_would(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def found() -> tuple[torch.Tensor, list[torch.Tensor], list[int], list[int]]:
        model = prepared("must-drop", layers=(1, 2), overall=0.06, single=0.12, protected_share=0.1, recount=False)
        queries, last = list[int](), list[int]()
        for number, block in enumerate(model.layers):
            block.self_attn.q_proj.register_forward_hook(  # type: ignore[union-attr]
                lambda *_, number=number: queries.append(number)
            )
        model.encoder[-1].mlp.register_forward_hook(lambda *_: last.append(0))  # type: ignore[union-attr]
        with visual_passes(model) as passes:
            scores = model(*examples())
        return scores, list(passes[0].patches), queries, last

    scores, patches, queries, last = found()
    assert queries == [0, 1, 2, 3]
    assert last == []
    monkeypatch.setattr(
        _vision_language._Remembering, "attention", lambda self, stream, rows=None: self._view.attention(stream, rows)
    )
    anew, expected, more, _ = found()
    assert more == [0, 1, 1, 2, 2, 3]
    assert all(torch.equal(patch, other) for patch, other in zip(patches, expected, strict=True))
    assert len({patch.shape[1] for patch in patches}) == 3  # both drops drop
    torch.testing.assert_close(scores, anew)


@torch.no_grad()
def test_without_protected_tokens_the_best_one_stays() -> None:
    model = prepared("must-drop", protected_share=0.0, **ALL_GO)
    with visual_passes(model) as passes:
        model(*examples())
    assert passes[0].visual == [[16] * 3, [16] * 3, [1] * 3, [1] * 3]


@pytest.mark.paper_step("must-drop", "layers hold only survivors while they write")
@torch.no_grad()
def test_behind_the_prompt_layers_hold_the_survivors_and_count_positions_by_them() -> None:
    images, question, answer = examples()
    model = prepared("must-drop", protected_share=0.2, **ALL_GO)
    read = model.begin(model.encode(images, question), question)
    held = read.prompt_cache.store.held
    assert held[1] == held[2] == held[3]
    assert held[0][0] - held[1][0] == 12
    for layer in range(4):
        assert read.prompt_cache.following[layer].tolist() == held[layer]
    assert torch.isfinite(model.follow(read, answer[:, 0])).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 3}, "do not tile 4 x 4 patches"),
        ({"layers": (0, 1)}, "from 1 to 2"),
        ({"layers": (1, 3)}, "from 1 to 2"),
        ({"layers": (2, 1)}, "from 1 to 2"),
    ],
)
def test_stages_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(NotApplicable, match=message):
        prepared("must-drop", **{"layers": (1, 2), **settings})


@torch.no_grad()
def test_a_step_reads_what_is_held_at_the_positions_that_layers_count() -> None:
    """Against attention over explicit keys and values: those of survivors, at the positions of the prompt's pass."""
    images, question, answer = examples(1)
    model = prepared("must-drop", protected_share=0.2, **ALL_GO)
    read = model.begin(model.encode(images, question), question)
    streams: list[Stream] = []

    class Keeping(VisualReducer):
        def after_layer(self, before, after, layer):
            streams.append(before)
            return after

    model.reducers.insert(0, Keeping())
    model(images, question)
    survivors = streams[-1].patches[0]
    hidden = model.language().embed(answer)
    for number, (block, stream) in enumerate(zip(model.layers, streams, strict=True)):
        places = [
            place
            for place in range(stream.hidden_states.shape[1])
            if number < 1
            or not stream.visual.start <= place < stream.visual.stop
            or bool((survivors == stream.patches[0, place - stream.front]).any())
        ]
        past, at = stream.hidden_states[:, places], stream.positions[:, places]
        whole = torch.cat((past, hidden), 1)
        where = torch.cat((at, torch.tensor([[len(places)]])), 1)
        mask = torch.zeros(1, 1, len(places) + 1, len(places) + 1, dtype=torch.double)
        hidden = block(whole, attention_mask=mask, positions=where)[:, -1:]
    torch.testing.assert_close(model.follow(read, answer[:, 0]), model.language().score(hidden[:, 0]))
