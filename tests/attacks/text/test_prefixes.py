"""The front of a model reads what the whole model reads."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from attacks.core.attention import attentions
from attacks.text._prefixes import Front
from tests.attacks.text.spans import THREE, VOCABULARY, checkpoint, gpt2, llama


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


@pytest.mark.parametrize("make", [llama, checkpoint, gpt2])
@pytest.mark.parametrize("blocks", [2, 3])
def test_tokens_behind_prefixes_read_what_whole_texts_do(make: Callable[[], nn.Module], blocks: int) -> None:
    model = make().eval()
    layers, tokens = attentions(model)[:blocks], torch.arange(VOCABULARY)[::3]
    front = Front(model, layers)
    with torch.no_grad():
        for length in range(4):
            prefixes = torch.tensor(THREE)[:, :length]
            behind = front.read_behind(prefixes, tokens)
            assert len(behind) == len(layers) - 1
            for row, prefix in enumerate(prefixes):
                whole = torch.cat((prefix.expand(len(tokens), -1), tokens[:, None]), 1)
                for some, every in zip(behind, front.read_all(whole), strict=True):
                    assert torch.allclose(some[row], every[:, -1], rtol=1e-5, atol=1e-5)


def test_prefixes_are_read_once_where_layers_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    front = Front(checkpoint().eval(), attentions(checkpoint())[:2])
    monkeypatch.setattr(front, "read_last", lambda _tokens: pytest.fail("whole texts were read"))
    with torch.no_grad():
        front.read_behind(torch.tensor([THREE[0][:2]]), torch.arange(5))
