"""Training of the tiny VLM: what its losses are, that packed questions are single ones, and that it goes on."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from fedsim.bench import grids
from fedsim.bench.descent import ignore_step
from fedsim.bench.grids import (
    ANSWERING,
    CELLS,
    ENCODING,
    StagePlan,
    aligned_loss,
    answering_loss,
    descend,
    fresh,
    load_trained_model,
    packed_scores,
)
from fedsim.core.nets.checkpoints import TINY_VLM, WEIGHTS
from fedsim.data._grid_questions import draw_digits


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def test_packed_questions_are_answered_as_one_by_one() -> None:
    model = fresh()
    images, question = torch.rand(2, 1, 56, 56, generator=source()), torch.randint(40, (6, 4), generator=source())
    answer = torch.randint(40, (6, 1), generator=source(1))
    single = model(images.repeat_interleave(3, 0), question, answer)
    front, asking = model.laid_out(question)
    turns = torch.cat((asking, answer), 1).view(2, 3, -1)
    packed = packed_scores(model, model.encode(images, question[:2]).hidden_states, front[:2], turns)
    torch.testing.assert_close(packed.flatten(0, 1)[:, 5:], single, rtol=1e-4, atol=1e-4)  # sums in another order


@torch.no_grad()
def test_an_aligned_token_says_the_words_of_its_cell() -> None:
    model = fresh()
    assert model.visual.cells_of_patches(CELLS).view(8, 8)[::2, ::2].flatten().tolist() == list(range(16))
    digits = torch.arange(16)[None] % 10
    digits[0, 3] = -1
    words = grids.WORDS
    cells = model.visual.cells_of_patches(CELLS)
    wanted = torch.stack(
        [torch.tensor([words.of("none" if digit < 0 else f"d{digit}") for digit in digits[0].tolist()])[cells],
         words.of("r0") + cells // 4, words.of("c0") + cells % 4]
    )  # fmt: skip
    visual = torch.randn(1, 64, 128, generator=source())
    odds = (visual[0] @ model.embed_tokens.weight.T / 128**0.5).log_softmax(-1)
    by_hand = sum(-odds[torch.arange(64), own].mean() for own in wanted)
    torch.testing.assert_close(aligned_loss(model, visual, digits), torch.as_tensor(by_hand))


def test_the_loss_of_answers_reaches_projector_and_language_model_alone() -> None:
    model, digits = fresh(), draw_digits(20, 4, (3, 6), 0.5, source())
    loss = answering_loss(model, digits, torch.randn(20, 64, 96, generator=source()), source())
    loss.backward()
    touched = {name.split(".")[0] for name, own in model.named_parameters() if own.grad is not None}
    assert touched == {"projector", "embed_tokens", "layers", "norm", "lm_head"}
    assert float(loss.detach()) > 0


def test_an_interrupted_descent_goes_on_where_it_was(tmp_path: Path) -> None:
    def descended(states: Path, stop: int) -> torch.Tensor:
        linear = torch.nn.Linear(3, 1, bias=False)
        torch.nn.init.ones_(linear.weight)
        steps = iter(range(stop))

        def loss(generator: torch.Generator) -> torch.Tensor:
            if next(steps, None) is None:
                raise KeyboardInterrupt
            return F.mse_loss(linear(torch.rand(8, 3, generator=generator)), torch.zeros(8, 1))

        descend(linear, loss, StagePlan("test", 200, 1e-2, 0.0, 1.0), states, ignore_step)
        return linear.weight.detach()

    whole = descended(tmp_path / "whole", 200)
    with pytest.raises(KeyboardInterrupt):
        descended(tmp_path / "cut", 130)
    assert torch.equal(descended(tmp_path / "cut", 100), whole)


def test_the_model_is_trained_once_and_kept_in_half_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path))
    monkeypatch.setattr(grids, "ENCODING", StagePlan(ENCODING.name, 1, 1e-3, 0.0, 1.0))
    monkeypatch.setattr(grids, "ANSWERING", StagePlan(ANSWERING.name, 1, 1e-3, 0.0, 1.0))
    monkeypatch.setattr(grids, "_IMAGES", 20)
    told: list[tuple[str, int, int]] = []
    first = load_trained_model(lambda step: told.append(step[:3]))
    assert told == [("encoder", 1, 1), ("language model", 1, 1)]
    again = load_trained_model(lambda step: told.append(step[:3]))
    assert len(told) == 2
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in first.state_dict().items())
    assert all(own.dtype == torch.half for own in torch.load(tmp_path / TINY_VLM / WEIGHTS, weights_only=True).values())
    assert [path.name for path in tmp_path.iterdir()] == [TINY_VLM]
