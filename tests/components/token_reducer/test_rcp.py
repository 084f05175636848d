"""rcp: dropping equals masking, masks only shrink, and states that predict no answer stay as they are."""

from typing import Any

import pytest
import torch
from torch import nn

from fedsim.components.token_reducer.rcp import RcpReducer
from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.nets.visual import Stream, VisualReducer, visual_passes
from fedsim.models.tiny_vlm import TinyVlm
from tests.models.vlms import examples, prepared, small_vlm

LAYERS: dict[str, Any] = {"layers": (1, 2), "repairs": (1, 3)}


def lively(model: TinyVlm | None = None, *, strength: float = 1.0, **settings: Any) -> TinyVlm:
    """A model with parts whose weights are no first ones: about half of the tokens go, and every repair acts."""
    own = prepared("rcp", model, **(LAYERS | settings)).double()
    reducer = own.reducers[-1]
    assert isinstance(reducer, RcpReducer)
    source = torch.Generator().manual_seed(2)
    for parameter in reducer.parameters():
        nn.init.normal_(parameter, std=0.1, generator=source)
    for part in reducer.pruners.values():
        nn.init.zeros_(part.bias)  # type: ignore[arg-type]
    for part in reducer.repairs.values():
        nn.init.constant_(part.strength, strength)  # type: ignore[arg-type]
    return own.eval()


class Looking(VisualReducer):
    """Keeps what each layer read, and what came out."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[Stream] = []
        self.came: list[Stream] = []

    def after_layer(self, before, after, layer):
        self.read.append(before)
        self.came.append(after)
        return after


@torch.no_grad()
@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_taking_tokens_out_equals_attention_of_zero(strength: float) -> None:
    own = examples(6)
    model = lively(strength=strength)
    with visual_passes(model) as passes:
        taken = model(*own)
        masked = model.train()(*own)
    torch.testing.assert_close(taken, masked)
    counts = torch.tensor(passes[0].visual)
    assert (counts[1] < 16).any()
    assert (counts[2] < counts[1]).any()
    assert passes[1].visual == [[16] * 6] * 4


@pytest.mark.paper_step("rcp", "pruning by attention, look and a network")
@torch.no_grad()
def test_later_masks_hold_no_token_that_an_earlier_one_dropped() -> None:
    images, question, answer = examples(1000)
    looking, model = Looking(), lively()
    model.reducers.append(looking)
    model.train()
    model.reducers[0].noise = torch.Generator().manual_seed(0)  # type: ignore[assignment]
    model(images, question, answer)
    first, second = (looking.read[layer].shares for layer in (1, 2))
    assert first is not None
    assert second is not None
    assert set(second.unique().tolist()) == {0.0, 1.0}
    assert bool((second <= first).all())
    assert bool((second < first).any())


@pytest.mark.paper_step("rcp", "repair of the lost states")
@torch.no_grad()
def test_only_places_that_predict_the_answer_are_mended() -> None:
    plain, mended = Looking(), Looking()
    own = examples()
    for looking, strength in ((plain, 0.0), (mended, 1.0)):
        model = lively(strength=strength, repairs=(1,))
        model.reducers.append(looking)
        model.train()(*own)
    before, after = plain.came[1], mended.came[1]
    assert torch.equal(before.hidden_states[:, : before.last], after.hidden_states[:, : after.last])
    assert bool((before.hidden_states[:, before.last :] != after.hidden_states[:, after.last :]).any(-1).all())


@torch.no_grad()
def test_one_token_stays_where_none_would() -> None:
    model = lively()
    reducer = model.reducers[0]
    assert isinstance(reducer, RcpReducer)
    for part in reducer.pruners.values():
        nn.init.constant_(part.bias, -1e3)  # type: ignore[arg-type]
    with visual_passes(model) as passes:
        model(*examples())
    assert passes[0].visual[1:] == [[1] * 3] * 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": (0, 2)}, r"layers is \(0, 2\), expected ascending numbers from 1 to 3"),
        ({"layers": (2, 2)}, "expected ascending numbers from 1 to 3"),
        ({"layers": (4,)}, "expected ascending numbers from 1 to 3"),
        ({"repairs": (0,)}, r"repairs is \(0,\), expected ascending numbers from 1 to 3"),
        ({"repairs": (1, 4)}, "expected ascending numbers from 1 to 3"),
    ],
)
def test_layers_that_do_not_fit_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(NotApplicable, match=message):
        prepared("rcp", None, **(LAYERS | settings))


def test_trained_weights_that_are_missing_or_of_other_sizes_are_named(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path))
    with pytest.raises(FedsimError, match="no trained weights 'rcp-50' found. Train them: fedsim bench model"):
        prepared("rcp", **LAYERS, weights="rcp-50")
    (tmp_path / "rcp-50").mkdir()
    torch.save(lively().reducers[0].state_dict(), tmp_path / "rcp-50" / "weights.pt")
    prepared("rcp", small_vlm(), **LAYERS, weights="rcp-50")
    with pytest.raises(FedsimError, match="belong to the usual sizes"):
        prepared("rcp", None, **(LAYERS | {"repairs": (3,)}), weights="rcp-50")
