"""Membership of rcp's parts: losses are taken question by question, and only the parts are trained."""

import pytest
import torch

from benchmarks import rcp_membership as own
from fedsim.bench import grids, pruning


@pytest.fixture(scope="module")
def plain():
    return grids.fresh()


def test_without_parts_nothing_is_calibrated_away_and_tokens_are_all_read(plain) -> None:
    examples = own.draw_examples(plain, 3, "members")
    of_plain = own.signals(plain, plain, examples)
    assert set(of_plain) == {"answer", "answer, calibrated"}
    assert of_plain["answer, calibrated"] == [0.0] * 3
    scores, _, share = own._read(plain, examples, ())
    each = torch.nn.functional.cross_entropy(scores.mT, examples.answers, reduction="none").mean(1)
    torch.testing.assert_close(torch.tensor(of_plain["answer"]), -each)
    assert share == 1.0


def test_the_parts_alone_are_trained(plain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "BATCH", 2)
    examples = own.draw_examples(plain, 2, "members")
    model = own.with_trained_parts(plain, examples, 1)
    before = {**pruning.with_parts(plain).state_dict()}
    changed = {name for name, one in model.state_dict().items() if not torch.equal(one, before[name])}
    assert changed
    assert all(name.startswith("reducers.") for name in changed)
    assert len(own.signals(model, plain, examples)["moments of mended states"]) == 2
