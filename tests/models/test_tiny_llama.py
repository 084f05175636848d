"""The tiny Llama against the transformers package, on small networks with copied weights."""

import pytest
import torch
from torch import Tensor, nn

from fedsim.core.errors import FedsimError
from fedsim.core.nets import masks
from fedsim.core.nets.losses import cross_entropy
from fedsim.core.types import InputSpec
from tests.models.llamas import LENGTH, SIZES, TAGS, build, reference, tokens


def gradient(model: nn.Module) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    loss = cross_entropy(model(tokens()), tokens().roll(-1, 1))
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


@pytest.mark.parametrize("tied", [False, True])
def test_tiny_llama_is_llama(tied: bool) -> None:
    theirs, ours = reference(tied), build(**SIZES, tied=tied)
    ours.load_state_dict(
        {k.removeprefix("model."): v for k, v in theirs.state_dict().items() if not tied or k != "lm_head.weight"}
    )
    assert torch.allclose(ours(tokens()), theirs(tokens()).logits, atol=1e-5)
    theirs.loss = cross_entropy(theirs(tokens()).logits, tokens().roll(-1, 1))
    expected = torch.autograd.grad(theirs.loss, list(theirs.parameters()))
    names = [name.removeprefix("model.") for name, _ in theirs.named_parameters()]
    found = gradient(ours)
    assert sorted(names) == sorted(found)
    assert all(torch.allclose(found[n], e, atol=1e-5) for n, e in zip(names, expected, strict=True))


def test_what_comes_later_changes_nothing() -> None:
    model, changed = build(**SIZES).eval(), tokens().clone()
    changed[:, 4:] = 0
    assert torch.allclose(model(tokens())[:, :4], model(changed)[:, :4], atol=1e-6)


def test_recorded_masks_can_be_injected_and_the_gradient_can_be_differentiated() -> None:
    model = build(**SIZES, dropout=0.5).train()
    with masks.record_masks(model, torch.Generator().manual_seed(1)) as recording:
        drawn = gradient(model)
    with masks.inject_masks(recording.sites, tuple(recording.masks)):
        injected = gradient(model)
    assert len(recording.masks) == 1 + 2 * 3
    assert all(torch.equal(drawn[name], injected[name]) for name in drawn)
    head, loss = model.get_submodule("lm_head"), cross_entropy(model(tokens()), tokens())
    (first,) = torch.autograd.grad(loss, list(head.parameters()), create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), [model.get_parameter("layers.0.self_attn.q_proj.weight")])
    assert float(second.abs().max()) > 0


def test_a_tagger_drops_hidden_states_and_starts_unbiased() -> None:
    model = build(about=TAGS, **SIZES)
    (site,) = masks.dropout_sites(model, TAGS.shape, 2, TAGS.dtype)
    assert (site.name, site.rate, site.shape) == ("lm_head.dropout", 0.1, (2, LENGTH, 16))
    assert not bool(model.get_parameter("lm_head.score.bias").any())
    with pytest.raises(FedsimError, match="tags need their own output layer"):
        build(about=TAGS, **SIZES, tied=True)


def test_images_and_odd_sizes_are_refused() -> None:
    with pytest.raises(FedsimError, match="model 'tiny-llama' reads text"):
        build(about=InputSpec((3, 8, 8), 10, (0.0,) * 3, (1.0,) * 3))
    with pytest.raises(FedsimError, match="expected a width that is a multiple of 8"):
        build(**{**SIZES, "width": 20})
    with pytest.raises(FedsimError, match="key_value_heads that divide the heads"):
        build(**{**SIZES, "key_value_heads": 3})
