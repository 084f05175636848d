"""What is read inside a model, and that the model is left as it was."""

import contextlib

import pytest
import torch
from torch import nn

from fedsim.core.hooks import GenerationInputs
from fedsim.core.types import Config, Limits
from fedsim.generation import generate, sample
from fedsim.generation.reading import Inside, evaluation_mode, reading_inside
from tests.components.generating import (
    LEAKING,
    Denoiser,
    Positive,
    make,
    prompts,
    sources,
    tiny_llama,
)

ASKED = prompts([1, 2, 3], [LEAKING], [4, 5])


def test_kept_tokens_stand_in_the_trace_of_each_row() -> None:
    model = Positive(Config()).prepare(Denoiser(), torch.Generator())
    kept: list[list[int]] = []
    model.reducer.register_forward_hook(
        lambda _m, args, _o: kept.append((args[0].flatten(2).sum(-1) > 0).sum(1).tolist())
    )
    condition = GenerationInputs(((),) * 2, {"class": torch.tensor([0, 1])})
    samples = sample(make("toy-euler"), model, condition, (3, 4, 4), sources(2))
    series = [own.trace.series() for own in samples]
    assert [own["evaluations"] for own in series] == [(1,) * 3, (1,) * 4]
    assert [own["kept.reducer"] for own in series] == [
        tuple(counts for (counts,) in kept[:3]),
        tuple(counts for (counts,) in kept[3:]),
    ]


def test_what_crosses_a_cut_is_kept_for_each_row_alone() -> None:
    model = tiny_llama().eval()
    texts = generate(make("greedy"), model, ASKED, Limits(max_new_tokens=2), sources(3), cuts=["layers.0"])
    plain = generate(make("greedy"), model, ASKED, Limits(max_new_tokens=2), sources(3))
    assert texts == plain
    assert all(not own.activations for own in plain)
    for prompt, text in zip(ASKED.prompts, texts, strict=True):
        assert [[name for name, _ in step] for step in text.activations] == [["layers.0"]] * 2
        read = [len(prompt), 1]  # what was read once is not read again
        assert [step[0][1].shape for step in text.activations] == [(1, length, 16) for length in read]
    with torch.no_grad():
        expected = nn.Sequential(model.get_submodule("embed_tokens"))(torch.tensor([[1, 2, 3]]))
        mask = torch.full((1, 1, 3, 3), -torch.inf, dtype=torch.double).triu(1)
        expected = model.get_submodule("layers.0")(expected, attention_mask=mask)
    torch.testing.assert_close(texts[0].activations[0][0][1], expected)


def test_a_model_is_read_in_evaluation_mode_and_each_module_comes_back_to_its_own() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout())).train()
    model[1].eval()
    with contextlib.suppress(LookupError), evaluation_mode([*model.modules()]):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        raise LookupError
    assert [module.training for module in model.modules()] == [True, True, False, False]
    assert torch.is_grad_enabled()


def test_what_was_read_in_two_passes_is_counted_together_by_place() -> None:
    one = Inside({"a": [(1, 2)]}, (("x", torch.zeros(1)),))
    both = one.followed_by(Inside({"a": [(3,)], "": [(4,)]}, (("y", torch.ones(1)),)))
    assert both.counts == {"kept.a": 6, "kept.model": 4}
    assert [name for name, _ in both.activations] == ["x", "y"]
    assert one.counts == {"kept.a": 3}


def test_hooks_are_gone_behind_the_context_also_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    with pytest.raises(LookupError), reading_inside(model, ["0"], reduces=False):
        raise LookupError
    assert not model[0]._forward_hooks
    with reading_inside(model, ["0"], reduces=False) as inside:
        expected = model[0](torch.ones(1, 1))
        model(torch.ones(1, 1))
    assert [name for name, _ in inside.activations] == ["0", "0"]
    assert torch.equal(inside.activations[1][1], expected.detach())
