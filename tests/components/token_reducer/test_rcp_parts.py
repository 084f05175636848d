"""Parts of rcp against closed forms: first values, choices with a gradient, means over what is left."""

import pytest
import torch
from torch import nn

from fedsim.components.token_reducer._rcp_parts import Lost, Pruner, Repair, baseline, choose_tokens


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_choice_is_zero_or_one_with_the_gradient_of_a_sigmoid() -> None:
    logits = drawn(50).requires_grad_()
    found = choose_tokens(logits, 0.7)
    assert set(found.tolist()) == {0.0, 1.0}
    assert torch.equal(found > 0, logits > 0)
    found.sum().backward()
    bounded = 4 * (logits.detach() / 4).tanh()
    soft = (bounded / 0.7).sigmoid()
    torch.testing.assert_close(logits.grad, soft * (1 - soft) / 0.7 * (1 - (bounded / 4).square()))
    assert torch.equal(choose_tokens(logits, 0.7, torch.full((50,), 9.0)), torch.ones(50))


def test_the_baseline_is_a_logarithm_less_its_mean_over_what_is_left() -> None:
    found = baseline(torch.tensor([[0.1, 0.4, 0.0]]), torch.tensor([[True, True, False]]))
    logs = torch.tensor([0.1, 0.4, 1e-6]).log()
    torch.testing.assert_close(found[0], logs - logs[:2].mean())


def test_at_first_a_pruner_corrects_attention_by_a_constant_alone() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pruner = Pruner(6, 8, 3, 4)
    alive, attention = torch.ones(2, 5, dtype=torch.bool), drawn(2, 5).softmax(-1)
    looks = pruner(drawn(2, 5, 6), attention, alive, drawn(2, 6)) - baseline(attention, alive) - 2.0
    torch.testing.assert_close(looks.sum(1), torch.ones(2))  # weights of a look add up to 1, and so does their mean


def test_what_dropped_tokens_are_changes_no_logit_of_the_others() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pruner = Pruner(6, 8, 3, 4)
        nn.init.normal_(pruner.weighs.weight)
    alive = torch.tensor([[True, False, True, True, False]])
    attention, visual, question = drawn(1, 5).softmax(-1), drawn(1, 5, 6), drawn(1, 6)
    other = visual.where(alive[..., None], drawn(1, 5, 6, seed=1))
    before = pruner(visual, attention, alive, question)
    after = pruner(other, attention.where(alive, 0.9), alive, question)
    assert torch.equal(before[alive], after[alive])
    assert not torch.equal(before[~alive], after[~alive])


def test_what_is_lost_is_a_mean_over_what_went_and_a_look_at_what_is_kept() -> None:
    own = Lost(4, 6, 5)
    visual, kept = drawn(1, 4, 6), torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    marked = kept[0, :, None] * own.places
    pooled = (marked @ own.query / 8).softmax(0) @ marked
    expected = own.mask(pooled) + own.states(visual[0, [1, 3]].mean(0))
    torch.testing.assert_close(own(kept, visual, 1 - kept)[0], expected)
    nothing = own(torch.ones(1, 4), visual, torch.zeros(1, 4))
    assert torch.equal(nothing, own(torch.ones(1, 4), 2 * visual, torch.zeros(1, 4)))


@pytest.mark.parametrize("strength", [0.0, 0.1])
def test_at_first_a_repair_adds_a_plain_branch_and_without_strength_nothing(strength: float) -> None:
    repair, states = Repair(6, 4), drawn(2, 3, 6)
    nn.init.constant_(repair.strength, strength)
    expected = states + strength * repair.up(nn.functional.gelu(repair.down(states)))
    assert torch.equal(repair(states, drawn(2, 4)), expected)
