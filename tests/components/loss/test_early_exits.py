"""Early exits: their losses against sums written out, and what they leave as it is."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedsim.components.loss.early_exits import skip_chances
from fedsim.core.errors import NotApplicable
from fedsim.core.nets.masks import disable_dropout, keep_masks
from fedsim.federation.client import local_training
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from tests.components.generating import make, tiny_llama

DEPTH, EXITS, SHARE = 4, (1, 3), 0.4
ROUNDING = 1e-12  # double precision: sums of a few terms
TOKENS = torch.tensor([[1, 2, 3, 4, 5, 1], [6, 1, 1, 2, 3, 3]])
LABELS = TOKENS.roll(-1, 1)


def prepared() -> nn.Module:
    return make("early-exits", exits=EXITS).prepare(tiny_llama(blocks=DEPTH), torch.Generator()).train()


def shortened(layers: int) -> nn.Module:
    """The model without its later layers."""
    model = tiny_llama(blocks=DEPTH)
    blocks = model.get_submodule("layers")
    assert isinstance(blocks, nn.ModuleList)
    del blocks[layers:]
    return model


def test_each_exit_scores_as_the_model_without_later_layers() -> None:
    with torch.no_grad(), disable_dropout():
        found = prepared()(TOKENS)
        for place, layers in enumerate((*EXITS, DEPTH)):
            torch.testing.assert_close(found[:, place], shortened(layers)(TOKENS), rtol=0, atol=ROUNDING)


@pytest.mark.paper_step("early-exits", "loss of every exit, weighted more for later exits")
def test_the_loss_is_the_weighed_sum_of_the_exits_losses() -> None:
    with torch.no_grad(), disable_dropout():
        outputs = prepared()(TOKENS)
        early, late, whole = (
            F.cross_entropy(shortened(own)(TOKENS).flatten(0, 1), LABELS.flatten()) for own in (*EXITS, DEPTH)
        )
    found = make("early-exits", exits=EXITS, share=SHARE).objective(outputs, LABELS, 1)
    torch.testing.assert_close(found, 0.6 * whole + 0.4 * (early / 4 + late * 3 / 4), rtol=0, atol=ROUNDING)
    plain = make("early-exits", exits=EXITS, share=0.0)
    torch.testing.assert_close(plain.objective(outputs, LABELS, 1), whole, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(plain.objective(outputs[:, -1], LABELS, 1), whole, rtol=0, atol=ROUNDING)


@pytest.mark.paper_step("early-exits", "curriculum of exits")
def test_the_schedule_says_which_exits_count_in_a_round() -> None:
    def active(schedule: str) -> list[tuple[int, ...]]:
        config = make("early-exits", exits=(3, 1, 2), schedule=schedule, stage_rounds=2).config
        return [config.active(round_) for round_ in (1, 2, 3, 5, 7)]

    assert active("all") == [(1, 2, 3)] * 5
    assert active("rotating") == [(1,), (1,), (2,), (3,), (1,)]
    assert active("gradual") == [(3,), (3,), (2, 3), (1, 2, 3), (1, 2, 3)]


def without_its_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        for name in ("p", "dropout_p", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


@pytest.mark.paper_step("early-exits", "dropout of layers that grows with depth")
def test_a_dropped_layer_leaves_a_text_as_it_came_and_an_evaluation_drops_none() -> None:
    assert skip_chances(DEPTH, 0.5) == pytest.approx((0, 0.5 * (2 ** (1 / 3) - 1), 0.5 * (2 ** (2 / 3) - 1), 0.5))
    llama = without_its_dropout(tiny_llama(blocks=DEPTH))
    dropping = make("early-exits", exits=EXITS, layer_dropout=0.5).prepare(llama, torch.Generator()).train()
    with torch.no_grad(), keep_masks(torch.Generator().manual_seed(4)) as masks:
        scores = dropping(TOKENS)[:, -1]
    runs = torch.stack([mask.flatten() > 0 for mask in masks])  # of the three layers that may be skipped
    assert len({tuple(row) for row in runs.T.tolist()}) == len(TOKENS), "each text skips layers of its own"
    assert runs.shape == (DEPTH - 1, len(TOKENS))
    for row in range(len(TOKENS)):
        short = tiny_llama(blocks=DEPTH).train()
        blocks = short.get_submodule("layers")
        assert isinstance(blocks, nn.ModuleList)
        for layer in reversed(range(1, DEPTH)):
            if not runs[layer - 1, row]:
                del blocks[layer]
        with torch.no_grad(), disable_dropout():
            torch.testing.assert_close(scores[[row]], short(TOKENS[[row]]), rtol=0, atol=ROUNDING)
    with torch.no_grad():
        assert torch.equal(dropping.eval()(TOKENS), tiny_llama(blocks=DEPTH).eval()(TOKENS))


def test_evaluation_stays_and_copies_have_exits_of_their_own() -> None:
    model = prepared()
    with torch.no_grad(), disable_dropout():
        twin = copy.deepcopy(model)
        assert torch.equal(twin(TOKENS), model(TOKENS))
        assert torch.equal(model.eval()(TOKENS), tiny_llama(blocks=DEPTH).eval()(TOKENS))


def test_a_client_trains_with_exits(scenario: Callable[..., Scenario]) -> None:
    tables = {
        "data": {"name": "lee-news", "length": 8, "train": 40, "test": 20},
        "model": {"name": "tiny-llama", "width": 16, "hidden": 16, "blocks": 3},
        "federation": {"clients": 2, "batch_size": 2},
    }
    world = worlds.build(scenario(components=[{"name": "early-exits", "exits": [1, 2]}], **tables))
    plain = worlds.build(scenario(**tables))
    update, truth = local_training(world, world.models.first_weights, 1, 0)
    other, _ = local_training(plain, plain.models.first_weights, 1, 0)
    assert {name.removeprefix("own.") for name in update.tensors} == set(other.tensors)
    model = plain.models.new().train()
    batch = truth.batches[0]
    losses = []
    for layers in (3, 1, 2):
        twin = copy.deepcopy(model)
        blocks = twin.get_submodule("layers")
        assert isinstance(blocks, nn.ModuleList)
        del blocks[layers:]
        losses.append(plain.task.loss(twin(batch.inputs), batch.labels).item())
    expected = 0.5 * losses[0] + 0.5 * (losses[1] / 3 + losses[2] * 2 / 3)
    assert update.loss == pytest.approx(expected, rel=1e-5)  # single precision


def test_exits_that_the_model_does_not_have_are_refused() -> None:
    with pytest.raises(NotApplicable, match=r"exits = \[4\], expected numbers of layers from 1 to 3"):
        make("early-exits", exits=(4,)).prepare(tiny_llama(blocks=DEPTH), torch.Generator())
    with pytest.raises(NotApplicable, match="no list of blocks"):
        make("early-exits").prepare(nn.Linear(2, 2), torch.Generator())
