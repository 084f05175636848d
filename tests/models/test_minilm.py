"""MiniLM is the published one."""

import os
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedsim.core.errors import FedsimError, MissingExtra
from fedsim.core.nets import checkpoints, masks
from fedsim.core.types import InputSpec
from tests.models.encoders import build


@pytest.fixture(scope="module")
def real() -> tuple[nn.Module, Any]:
    """MiniLM with its tokenizer; without its package the test is skipped, and fails in CI."""
    pytest.importorskip("transformers")
    try:
        folder = checkpoints.minilm()
    except MissingExtra as error:
        (pytest.fail if "CI" in os.environ else pytest.skip)(str(error))
    from fedsim.data._tokenizer import ModelTokenizer

    return build("minilm", InputSpec((16,), 1, (), (), vocabulary=30522, padding=0)), ModelTokenizer(folder)


def test_minilm_knows_that_a_flute_is_a_flute(real: tuple[nn.Module, Any]) -> None:
    model, tokenizer = real
    rows = [
        [101, *tokenizer.encode(text), 102]
        for text in ("A man is playing a large flute.", "A man is playing a flute.", "Stocks fell on Friday.")
    ]
    batch = torch.tensor([row + [0] * (16 - len(row)) for row in rows])
    with torch.no_grad():
        first, second, other = F.normalize(model.eval()(batch))
        alone = model(torch.tensor(rows[1:2]))
    assert float(first @ second) > 0.85
    assert float(first @ other) < 0.15
    assert torch.allclose(F.normalize(alone)[0], second, atol=1e-5)


def test_minilm_drops_out_at_the_rate_that_is_set(real: tuple[nn.Module, Any]) -> None:
    model, _ = real
    assert sum(p.numel() for p in model.parameters()) == 22_565_376
    sites = masks.dropout_sites(model, (16,), 2, torch.long)
    assert {site.rate for site in sites} == {0.1}
    assert len(sites) == 1 + 6 * 3
    assert all(site.shape[0] == 2 for site in sites)


def test_minilm_wants_its_own_tokenizer(real: tuple[nn.Module, Any]) -> None:
    with pytest.raises(FedsimError, match='data.tokenizer = "minilm"'):
        build("minilm")
    with pytest.raises(FedsimError, match="expected at most 512"):
        build("minilm", InputSpec((513,), 1, (), (), vocabulary=30522, padding=0))
