"""Gradients of codes by place, and why there are none."""

from dataclasses import replace

import torch

from attacks.codebooks._codes import code_gradients, why_no_codes
from fedsim.components.bottleneck.codebook import codebooks
from tests.attacks.solving import sending
from tests.federating import watched

MLP = {"name": "mlp", "width": 24, "depth": 2, "dropout": 0.0}
BOOK = {"name": "codebook", "at": ["1"], "codes": 16, "active": 2}


def test_gradients_of_codes_are_those_that_were_sent() -> None:
    observation, _, _ = watched(model=MLP, components=[BOOK])
    (place,) = codebooks(observation.model)
    found = code_gradients(observation)
    assert found.keys() == {place}
    codes = codebooks(observation.model)[place].codes
    assert found[place].shape == codes.shape
    (name,) = (n for n, p in observation.model.named_parameters() if p is codes)
    assert torch.equal(found[place], observation.update.tensors[name])
    assert why_no_codes(observation) is None
    rest = {n: t for n, t in observation.update.tensors.items() if n != name}
    hidden = sending(observation, rest)
    assert why_no_codes(hidden) == "the gradient of no codebook is shared"
    assert "local steps" in (why_no_codes(replace(observation, local_steps=2)) or "")


def test_a_model_without_a_codebook_has_no_codes() -> None:
    observation, _, _ = watched(model=MLP)
    assert why_no_codes(observation) == "the model has no codebook"
    assert code_gradients(observation) == {}
