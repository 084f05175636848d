"""Training under the schedule is what the decoder does, for every token at once."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from fedsim.components.core.layer_schedule import LayerSchedule
from fedsim.components.decoder.skipdecode import read_by_schedule
from fedsim.core.errors import NotApplicable
from fedsim.core.nets.kv_cache import DecodingCache
from fedsim.core.nets.masks import disable_dropout
from tests.components.generating import make, tiny_llama

DEPTH, PROMPT = 6, 3
ROUNDING = 1e-9  # double precision: sums in another order, through six layers
TEXT = (1, 2, 3, 4, 1, 2, 5, 6, 1, 4)


def prepared(**settings: Any) -> nn.Module:
    chosen: dict[str, Any] = {"first": 5, "last": 2, "expected_tokens": 6, "prompt": PROMPT}
    component = make("skipdecode-training", **(chosen | settings))
    return component.prepare(tiny_llama(blocks=DEPTH), torch.Generator()).train()


@pytest.mark.paper_step("skipdecode-training", "training with the decoder's schedule")
def test_scores_in_training_are_those_of_the_decoder_step_by_step() -> None:
    model, past, schedule = prepared(), DecodingCache(), LayerSchedule(DEPTH, 5, 2, 1, 6)
    with torch.no_grad(), disable_dropout():
        trained = model(torch.tensor([TEXT]))[0]
        model.eval()
        for count in range(len(TEXT) - PROMPT + 1):
            (scores,) = read_by_schedule(model, past, [TEXT[: PROMPT + count]], [PROMPT], schedule)
            torch.testing.assert_close(scores[0], trained[PROMPT + count - 1], rtol=0, atol=ROUNDING)
        plain = model(torch.tensor([TEXT]))[0]
    torch.testing.assert_close(plain[:PROMPT], trained[:PROMPT], rtol=0, atol=ROUNDING)
    assert (plain[PROMPT:] - trained[PROMPT:]).abs().amax(-1).min() > 1e-3, "the control: the schedule changes them"


def test_evaluation_and_names_of_weights_stay_and_copies_jump_too() -> None:
    plain, model, tokens = tiny_llama(blocks=DEPTH), prepared(), torch.tensor([TEXT])
    assert plain.state_dict().keys() == model.state_dict().keys()
    with torch.no_grad(), disable_dropout():
        assert torch.equal(plain.eval()(tokens), model.eval()(tokens))
        assert torch.equal(copy.deepcopy(model).train()(tokens), model.train()(tokens))


def test_a_layer_gets_gradients_from_those_tokens_alone_that_it_runs_on() -> None:
    model, reached = prepared(first=2, last=2), list[torch.Tensor]()

    def note(_block: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        output.register_hook(reached.append)

    own = nn.Module.register_forward_hook(model.get_submodule("layers.4"), note, prepend=True)
    with disable_dropout():
        model(torch.tensor([TEXT])).square().sum().backward()
    own.remove()
    assert [bool(place.any()) for place in reached[0][0]] == [place < PROMPT for place in range(len(TEXT))]


def test_a_model_without_blocks_and_a_schedule_that_does_not_fit_are_refused() -> None:
    with pytest.raises(NotApplicable, match="no list of blocks 'layers'"):
        make("skipdecode-training").prepare(nn.Linear(2, 2), torch.Generator())
    with pytest.raises(NotApplicable, match="expected warm_up < last <= first <= 6"):
        prepared(first=7)
