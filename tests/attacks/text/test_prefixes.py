"""The front of a model reads what the whole model reads."""

import pytest
import torch
from torch import Tensor

from attacks.core.attention import attentions
from attacks.text._prefixes import Front
from tests.attacks.text.spans import THREE, checkpoint


def test_the_front_reads_what_the_whole_model_reads_and_leaves_it_alone() -> None:
    model = checkpoint().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layers = attentions(model)[:2]
    assert layers == ["own.model.layers.0.self_attn.q_proj", "own.model.layers.1.self_attn.q_proj"]
    front, tokens = Front(model, layers), torch.tensor([own[:-1] for own in THREE])
    kept: list[Tensor] = []
    for layer in layers:
        model.get_submodule(layer).register_forward_pre_hook(lambda _module, inputs: kept.append(inputs[0]))
    with torch.no_grad():
        model(tokens)
        assert torch.allclose(front.read_first(tokens), kept[0], atol=1e-6)
        assert torch.allclose(front.read_last(tokens)[0], kept[1][:, -1], atol=1e-6)
        assert torch.allclose(front.read_all(tokens)[0], kept[1], atol=1e-6)
        assert not front.looks_ahead()
        assert not front.knows_places()
    assert len(kept) == 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_blocks_behind_the_second_are_not_run() -> None:
    model = checkpoint()

    def forbidden(*_: object) -> None:
        pytest.fail("the third block was run")

    model.get_submodule("own.model.layers.2").register_forward_pre_hook(forbidden)
    with torch.no_grad():
        Front(model, attentions(model)[:2]).read_last(torch.tensor([THREE[0][:-1]]))
