"""Neurons against the head written out, planted neurons, counted pairs, and the effect of a clamp by hand."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from fedsim.components.probe.head_neurons import (
    auc,
    clamp_neurons,
    moved_neurons,
    name_neurons,
    neuron_rows,
    same_top,
)
from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.hooks import GenerationInputs
from fedsim.core.nets.layer_calls import layer_inputs, layer_outputs
from fedsim.core.types import Limits
from fedsim.generation import generate
from tests.components.generating import make, sources, tiny_llama

UP, DOWN = "layers.0.mlp.up_proj", "layers.0.mlp.down_proj"
TOKENS = torch.tensor([[1, 2, 3, 4, 5]])


def llama() -> nn.Module:
    model = tiny_llama()
    source = torch.Generator().manual_seed(3)
    model.get_parameter("norm.weight").data.uniform_(0.5, 2.0, generator=source)
    return model.eval()


def by_hand(model: nn.Module, rows: Tensor) -> Tensor:
    """The head's scores written out."""
    of_size_one = rows / rows.square().mean(1, keepdim=True).sqrt()
    epsilon = 1e-5  # the norm's own, behind a vector of mean square 1
    normed = model.get_parameter("norm.weight") * of_size_one / (1 + epsilon) ** 0.5
    return (normed @ model.get_parameter("lm_head.weight").T).detach()


@pytest.mark.paper_step("head-neurons", "neurons named by the head")
def test_names_are_the_softmax_of_the_more_peaked_direction() -> None:
    model = llama()
    rows = neuron_rows(model)[UP]
    found = name_neurons(model, rows, kept=4, concepts={"some": (3, 8)})
    both = torch.stack([by_hand(model, rows).softmax(1), by_hand(model, -rows).softmax(1)])
    chosen = both.amax(2).argmax(0)
    odds = both[chosen, torch.arange(len(rows))]
    assert found.signs.tolist() == [(1, -1)[own] for own in chosen]
    assert set(chosen.tolist()) == {0, 1}
    torch.testing.assert_close(found.probabilities, odds.topk(4).values)
    assert torch.equal(found.tokens, odds.topk(4).indices)
    torch.testing.assert_close(found.entropy, -(odds * odds.log()).sum(1))
    torch.testing.assert_close(found.shares["some"], odds[:, [3, 8]].sum(1))
    torch.testing.assert_close(name_neurons(model, rows, kept=23).probabilities.sum(1), torch.ones(16).double())


@pytest.mark.paper_step("head-neurons", "share of names that tuning leaves")
def test_a_model_has_the_tops_of_itself_and_hardly_those_of_random_rows() -> None:
    model, source = llama(), torch.Generator().manual_seed(5)
    rows = torch.randn(2000, 16, generator=source).double()
    own = name_neurons(model, rows)
    assert same_top(own, own) == 1
    assert same_top(own, name_neurons(model, rows * 3)) == 1
    counted = [
        int(a[0]) == int(b[0]) for a, b in zip(own.tokens, name_neurons(model, rows.flip(0)).tokens, strict=True)
    ]
    assert same_top(own, name_neurons(model, rows.flip(0))) == sum(counted) / 2000
    others = name_neurons(model, torch.randn(2000, 16, generator=source).double())
    shares = torch.stack([own.tokens[:, 0].bincount(minlength=23), others.tokens[:, 0].bincount(minlength=23)]) / 2000
    # independent rows agree as often as chance says; 4 standard errors of 2,000 draws
    assert same_top(own, others) == pytest.approx(float(shares.prod(0).sum()), abs=4 * 0.25 / 2000**0.5)
    with pytest.raises(FedsimError, match="expected equal numbers"):
        same_top(own, name_neurons(model, rows[:3]))


def test_down_projection_neurons_are_columns() -> None:
    model = llama()
    assert torch.equal(neuron_rows(model, "down_proj")[DOWN][2], model.get_parameter(f"{DOWN}.weight")[:, 2])
    assert len(neuron_rows(model, "gate_proj")) == 2


def test_a_clamp_to_the_own_value_changes_nothing_and_ends_with_its_context() -> None:
    model = llama()
    with torch.no_grad(), layer_outputs(model, [UP]) as seen:
        before = model(TOKENS[:, :1])
    with torch.no_grad(), clamp_neurons(model, UP, {4: float(seen[0][1][0, 0, 4])}):
        torch.testing.assert_close(model(TOKENS[:, :1]), before)
    with torch.no_grad(), clamp_neurons(model, UP, {4: 9.0}):
        assert not torch.allclose(model(TOKENS[:, :1]), before)
    with torch.no_grad():
        assert torch.equal(model(TOKENS[:, :1]), before)


@pytest.mark.paper_step("head-neurons", "clamp of a neuron while the model writes")
def test_a_clamp_behind_the_gate_moves_the_residual_along_the_neurons_column() -> None:
    model, column = llama(), llama().get_parameter(f"{DOWN}.weight")[:, 4]

    def block() -> tuple[Tensor, Tensor]:
        with torch.no_grad(), layer_outputs(model, ["layers.0"]) as out, layer_inputs(model, [DOWN]) as read:
            model(TOKENS)
        return out[0][1], read[0][1]

    before, read = block()
    with clamp_neurons(model, DOWN, {4: 2.5}, "input"):
        after, _ = block()
    torch.testing.assert_close(after - before, (2.5 - read[..., 4, None]) * column.detach())


def test_a_clamp_holds_in_cached_generation() -> None:
    model = llama()
    with clamp_neurons(model, UP, {1: 4.0, 2: -4.0}):
        (text,) = generate(make("greedy"), model, GenerationInputs(((1, 2, 3),)), Limits(max_new_tokens=5), sources(1))
        tokens = [1, 2, 3]
        for _ in range(5):
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    assert list(text.tokens) == tokens[3:]


def test_area_under_the_curve_counts_pairs() -> None:
    source = torch.Generator().manual_seed(0)
    activations = torch.randint(0, 4, (12, 3), generator=source).double()
    is_member = torch.arange(12) % 3 == 0
    for neuron, found in enumerate(auc(activations, is_member).tolist()):
        pairs = list(
            itertools.product(activations[is_member, neuron].tolist(), activations[~is_member, neuron].tolist())
        )
        assert found == pytest.approx(sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs))


def test_the_probability_of_a_class_is_that_of_gaussians_with_its_share() -> None:
    hidden = torch.tensor([[0.0, 1.0], [2.0, 5.0], [1.0, 3.0], [4.0, 9.0], [6.0, 5.0]], dtype=torch.double)
    labels = torch.tensor([0, 0, 0, 1, 1])
    probe = make("head-neurons", neurons=2)
    learned = probe.fit(hidden, labels, torch.Generator())
    # class means 1, 3 and 5, 7; squares about them 2 + 2 and 8 + 8, of five examples
    means, variances = torch.tensor([[1.0, 3.0], [5.0, 7.0]]).double(), torch.tensor([4 / 5, 16 / 5]).double()
    at = torch.tensor([[2.5, 4.0], [3.0, 5.5], [9.0, 0.0]], dtype=torch.double)
    density = torch.distributions.Normal(means, variances.sqrt()).log_prob(at[:, None]).sum(-1).exp()
    joint = torch.tensor([3 / 5, 2 / 5]) * density
    torch.testing.assert_close(probe.predict(learned, at), joint / joint.sum(1, keepdim=True))


def test_moved_neurons_are_sorted_and_those_that_stand_still_are_left_out() -> None:
    change = {f"{UP}.weight": torch.tensor([[0.0, 1.0], [0.0, 0.0], [3.0, 4.0]]), f"{DOWN}.weight": torch.ones(2, 3)}
    assert moved_neurons(change) == [(f"{UP}.weight", 2), (f"{UP}.weight", 0)]
    assert len(moved_neurons(change, "down_proj")) == 3


def test_mistakes_are_named() -> None:
    model = llama()
    with pytest.raises(FedsimError, match=r"no layer 'layers.0.mlp.up_porj'. Did you mean 'layers.0.mlp.up_proj'"):  # noqa: SIM117
        with clamp_neurons(model, "layers.0.mlp.up_porj", {0: 1.0}):
            pass
    with pytest.raises(FedsimError, match="has no neuron 16, expected 0 to 15"), clamp_neurons(model, UP, {16: 1.0}):
        pass
    with pytest.raises(NotApplicable, match="has no layer 'up_proj'"):
        neuron_rows(nn.Linear(2, 2))
    with pytest.raises(NotApplicable, match="the head of this model cannot be read"):
        name_neurons(nn.Linear(2, 2), torch.ones(1, 2))
    with pytest.raises(NotApplicable, match="class 1 has none"):
        make("head-neurons").fit(torch.zeros(2, 3), torch.tensor([0, 2]), torch.Generator())


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_planted_neuron_is_found_for_its_token(sign: float) -> None:
    model, token = llama(), 7
    head = nn.init.orthogonal_(torch.empty(16, 16).double(), generator=torch.Generator().manual_seed(0))
    model.get_parameter("lm_head.weight").data[:16] = head
    model.get_parameter("lm_head.weight").data[16:] = 0
    model.get_parameter(f"{UP}.weight").data[5] = sign * 3 * head[token] / model.get_parameter("norm.weight").data
    found = name_neurons(model, neuron_rows(model)[UP], concepts={"own": [token]})
    assert found.tokens[5, 0] == token
    assert found.signs[5] == sign
    assert found.shares["own"].argmax() == 5
