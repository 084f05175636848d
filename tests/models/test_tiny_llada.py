"""The tiny LLaDA: every token sees all others, masked places read one token, and some places can be read alone."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.core import registry, seeding
from fedsim.core.errors import FedsimError
from fedsim.core.nets import masks
from fedsim.core.types import InputSpec

LENGTH, VOCABULARY = 7, 11
SPEC = InputSpec((LENGTH,), VOCABULARY, (), (), vocabulary=VOCABULARY)


def build(about: InputSpec = SPEC, **settings: Any) -> nn.Module:
    method = registry.get("model", "tiny-llada")
    with seeding.isolate_randomness(3):
        model = method.make(method.config.model_validate({"width": 16, "blocks": 2, "hidden": 20, **settings}), about)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.4)
    return model.double().eval()


def tokens(count: int = 2) -> Tensor:
    return torch.randint(VOCABULARY, (count, LENGTH), generator=torch.Generator().manual_seed(0))


def test_the_last_token_changes_the_scores_of_the_first_place() -> None:
    model, changed = build(), tokens()
    changed[:, -1] = (changed[:, -1] + 1) % VOCABULARY
    assert not torch.allclose(model(tokens())[:, 0], model(changed)[:, 0])


def test_a_masked_place_shows_nothing_of_its_token_and_reads_as_the_mask_token() -> None:
    model, masked = build(), torch.zeros(2, LENGTH, dtype=torch.bool)
    masked[:, 3] = True
    other = tokens()
    other[:, 3] = (other[:, 3] + 1) % VOCABULARY
    written = tokens().masked_fill(masked, model.mask_token)  # type: ignore[arg-type]
    assert torch.equal(model(tokens(), masked=masked), model(other, masked=masked))
    assert torch.equal(model(tokens(), masked=masked), model(written))
    assert model(written).shape == (2, LENGTH, VOCABULARY)  # the mask token is never scored


def test_the_order_of_tokens_matters_by_absolute_and_by_rotary_positions() -> None:
    for silent in ("embed_positions", "rotary"):
        model = build(base=1e30) if silent == "rotary" else build()
        if silent == "embed_positions":
            nn.init.zeros_(model.get_submodule("embed_positions").weight)  # type: ignore[arg-type]
        assert not torch.allclose(model(tokens()).flip(1), model(tokens().flip(1)))


class Whole:
    """Keeps keys and values of all places, and lets those that are read see them."""

    def __init__(self, at: Tensor) -> None:
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}
        self.at = at

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        if layer not in self.kept:
            self.kept[layer] = (keys.clone(), values.clone())
        for held, new in zip(self.kept[layer], (keys, values), strict=True):
            held[:, :, self.at] = new
        return self.kept[layer]


def test_some_places_read_alone_have_the_scores_of_the_whole_pass() -> None:
    model, every = build(), torch.arange(LENGTH)
    store = Whole(every)
    whole = model.read(tokens(), every.expand(2, -1), store)  # type: ignore[operator]
    torch.testing.assert_close(whole, model(tokens()))
    store.at = torch.tensor([5, 1])
    some = model.read(tokens()[:, store.at], store.at.expand(2, -1), store)  # type: ignore[operator]
    torch.testing.assert_close(some, whole[:, store.at])
    shifted = model.read(tokens()[:, store.at], torch.tensor([[0, 1]] * 2), store)  # type: ignore[operator]
    assert not torch.allclose(shifted, some), "positions are the true ones, not those among the read places"


def test_masks_of_dropout_are_recorded_and_the_gradient_can_be_differentiated() -> None:
    model = build(dropout=0.5).train()
    with masks.record_masks(model, torch.Generator().manual_seed(1)) as recording:
        drawn = model(tokens())
    assert len(recording.masks) == 1 + 2 * 3
    with masks.inject_masks(recording.sites, tuple(recording.masks)):
        assert torch.equal(model(tokens()), drawn)
    query = model.get_parameter("layers.0.self_attn.q_proj.weight")
    (first,) = torch.autograd.grad(drawn.square().sum(), [query], create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), [query])
    assert float(second.abs().max()) > 0


@pytest.mark.parametrize(
    ("about", "settings", "message"),
    [
        (InputSpec((3, 8, 8), 10, (0.0,) * 3, (1.0,) * 3), {}, "model 'tiny-llada' reads text"),
        (InputSpec((7,), 3, (), (), vocabulary=11), {}, "scores tokens, and the labels are none"),
        (SPEC, {"width": 20}, "expected a width that is a multiple of 8"),
        (SPEC, {"positions": 6}, "reads 6 tokens, and an example has 7. Raise model.positions"),
    ],
)
def test_what_does_not_fit_is_refused(about: InputSpec, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(FedsimError, match=message):
        build(about, **settings)
