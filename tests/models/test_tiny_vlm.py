"""The tiny VLM: what sees what, its attention, its second derivative, and mistakes in a sentence."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.nets import masks
from fedsim.core.nets.checkpoints import TINY_VLM, WEIGHTS
from fedsim.core.nets.visual import VisualReducer
from fedsim.core.types import InputSpec
from fedsim.data._grid_words import GridWords
from tests.models.vlms import PATCHES, SPEC, WORDS, examples, small_vlm


def make(spec: InputSpec = SPEC, **settings: Any):
    method = registry.get("model", "tiny-vlm")
    return method.make(method.config.model_validate(settings), spec)


def test_it_has_the_size_of_the_sheet() -> None:
    words = GridWords(4)
    model = make(InputSpec((1, 56, 56), len(words.words), (0.0,), (1.0,)), encoder_blocks=3, feature_layer=-1)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(
        1.57e6, rel=0.01
    )  # as the sheet rounds
    assert model.visual.patches == 64
    assert model.visual.words == words.words


@torch.no_grad()
def test_an_answer_sees_all_patches_and_no_later_token() -> None:
    model, (images, question, answer) = small_vlm(), examples(1)
    before = model(images, question, answer)
    assert before.shape == (1, 2, len(WORDS.words))
    other = model(images, question, (answer + 1) % len(WORDS.words))
    assert torch.equal(other[:, 0], before[:, 0])
    assert not torch.allclose(other[:, 1], before[:, 1])
    for patch in range(PATCHES):
        changed = images.clone()
        row, column = divmod(patch, 4)
        changed[:, :, 7 * row : 7 * row + 7, 7 * column : 7 * column + 7] += 0.3
        assert not torch.allclose(model(changed, question, answer)[:, 0], before[:, 0])


@torch.no_grad()
def test_attention_on_demand_is_that_of_the_layer() -> None:
    found: list[int] = []

    class Looking(VisualReducer):
        reads_all_of_encoder = True

        def after_encoder_layer(self, before, after, layer):
            self.compare(before, after, layer, model.encoder[layer.number], causal=False)
            return after

        def after_layer(self, before, after, layer):
            self.compare(before, after, layer, model.layers[layer.number], causal=True)
            return after

        def compare(self, before, after, layer, block, causal: bool) -> None:
            weights = layer.attention(before)
            torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
            torch.testing.assert_close(layer.attention(before, slice(1, 3)), weights[:, :, 1:3])
            queries, keys = layer.queries_keys(before)
            values = block.self_attn.v_proj(block.input_layernorm(before.hidden_states))
            values = values.unflatten(-1, (4, -1)).transpose(1, 2)
            fused = F.scaled_dot_product_attention(queries, keys, values, is_causal=causal)
            torch.testing.assert_close(fused, weights @ values)
            hidden = before.hidden_states + block.self_attn.o_proj(fused.transpose(1, 2).flatten(2))
            own = hidden + block.mlp(block.post_attention_layernorm(hidden))
            torch.testing.assert_close(own, after.hidden_states)
            found.append(layer.number)

    model = small_vlm(Looking())
    model(*examples())
    assert found == [0, 1, 2, 0, 1, 2, 3]


def test_the_feature_layer_is_the_one_that_is_named() -> None:
    images, question, answer = examples()
    for layer, unused in ((-1, []), (-2, [2]), (-3, [1, 2])):
        model = small_vlm(feature_layer=layer)
        model(images, question, answer).sum().backward()
        idle = [i for i, own in enumerate(model.encoder) if own.self_attn.q_proj.weight.grad is None]
        assert idle == unused


def test_its_gradient_can_be_differentiated_with_masks() -> None:
    model, (images, question, answer) = small_vlm(dropout=0.2).train(), examples(1)
    images.requires_grad_()
    with masks.record_masks(model, torch.Generator().manual_seed(1)) as recording:
        loss = model(images, question, answer).logsumexp(-1).mean()
    own = [one for one in model.parameters() if one.requires_grad]
    gradients = torch.autograd.grad(loss, own, create_graph=True, allow_unused=True)
    total = sum((one.square().sum() for one in gradients if one is not None), torch.zeros(()))
    (second,) = torch.autograd.grad(total, images)
    assert recording.masks
    assert bool(second.isfinite().all())
    assert float(second.abs().max()) > 0


@pytest.mark.parametrize(
    ("spec", "settings", "message"),
    [
        (InputSpec((28,), 30, (), (), 30), {}, "reads images"),
        (SPEC, {"patch": 5}, "cuts images into 5 x 5 patches, got 28 x 28 pixels. Set model.patch"),
        (SPEC, {"width": 20}, "model.width is 20: expected a multiple of 8"),
        (
            SPEC,
            {"feature_layer": -5},
            "model.feature_layer is -5, and the model has 4 encoder blocks: expected -4 to -1",
        ),
        (InputSpec((1, 28, 28), 10, (0.0,), (1.0,)), {}, 'and the data has 10. Set data.name = "digit-grids"'),
    ],
)
def test_what_does_not_fit_is_named(spec: InputSpec, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(FedsimError, match=re.escape(message)):
        make(spec, **settings)


def test_an_image_of_another_size_is_refused() -> None:
    model, (_, question, answer) = small_vlm(), examples()
    with pytest.raises(FedsimError, match=re.escape("reads images of 4 x 4 patches, got images of shape (1, 56, 56)")):
        model(torch.zeros(3, 1, 56, 56).double(), question, answer)


def test_trained_weights_are_made_first_and_fit_the_usual_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path))
    with pytest.raises(FedsimError, match=re.escape("fedsim bench model digit-grids")):
        make(trained=True)
    usual = make()
    (tmp_path / TINY_VLM).mkdir()
    torch.save({name: tensor.half() for name, tensor in usual.state_dict().items()}, tmp_path / TINY_VLM / WEIGHTS)
    loaded = make(trained=True)
    assert torch.equal(loaded.positions, usual.positions.half().float())
    with pytest.raises(FedsimError, match="usual sizes"):
        make(trained=True, width=64)
