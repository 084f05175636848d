from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from tests.attacks.solving import solve

NAME = "april"


class Separate(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return attended(self.q(z), self.k(z), self.v(z), self.heads)


class Packed(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return attended(*self.qkv(z).chunk(3, -1), self.heads)


class OfTorch(nn.Module):
    """`nn.MultiheadAttention`, which packs its projections and takes tokens first or by name."""

    def __init__(self, width: int, heads: int, *, batch_first: bool = True) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=batch_first, dropout=0.1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        if self.attention.batch_first:
            return self.attention(query=z, key=z, value=z, need_weights=False)[0]
        z = z.transpose(0, 1)
        return self.attention(z, z, z)[0].transpose(0, 1)


def attended(q, k, v, heads):
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
    return ((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)


KINDS = {
    "separate": Separate,
    "packed": Packed,
    "torch": OfTorch,
    "tokens first": lambda width, heads: OfTorch(width, heads, batch_first=False),
}


class Transformer(nn.Module):
    """Attention on the tokens themselves: no skip, no norm before, unless asked for."""

    def __init__(
        self,
        kind: str = "separate",
        *,
        rate: float = 0.0,
        width: int = 24,
        heads: int = 2,
        token: bool = True,
        pooled: bool = True,
        skip: bool = False,
        before: nn.Module | None = None,
        early: float = 0.0,
    ) -> None:
        super().__init__()
        self.pooled, self.skip = pooled, skip
        self.project = nn.Conv2d(2, width, 2, 2)
        self.position = nn.Parameter(torch.randn(1, 9 + token, width))
        self.token = nn.Parameter(torch.randn(1, 1, width)) if token else None
        self.early, self.drop = nn.Dropout(early), nn.Dropout(rate)
        self.before = before or nn.Identity()
        self.attention = KINDS[kind](width, heads)
        self.body = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width))
        self.head = nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.early(self.project(x).flatten(2).transpose(1, 2))
        if self.token is not None:
            z = torch.cat([self.token.expand(len(z), -1, -1), z], 1)
        z = self.drop(z + self.position)
        a = self.attention(self.before(z))
        a = a + z if self.skip else a
        a = a + self.body(a)
        return self.head(a.mean(1) if self.pooled else a[:, 0])


def build(kind: str = "separate", **settings: object) -> Transformer:
    with seeding.isolate_randomness(4):
        return Transformer(kind, **settings)


def relative_error(guess, truth) -> float:
    image = truth.batches[0].inputs
    return float((guess.inputs - image).norm() / image.norm())


@settings(max_examples=12, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    width=st.sampled_from([12, 24]),
    token=st.booleans(),
    seed=st.integers(0, 50),
)
def test_recovers_the_image_whatever_holds_the_projections(toy, attack_named, kind, width, token, seed):
    observation, truth = toy(build(kind, width=width, token=token), (2, 6, 6), 1, seed=seed)
    guess = solve(attack_named, NAME, replace(observation, labels=None))
    torch.testing.assert_close(guess.inputs, truth.batches[0].inputs, atol=1e-8, rtol=1e-8)
    assert torch.equal(guess.labels, truth.batches[0].labels)
    assert guess.stopped == "solved in closed form"
    assert guess.diagnostics["numerical rank"] == 9 + token


def test_the_gradient_of_the_patch_projection_is_not_needed(toy, attack_named):
    observation, truth = toy(build(), (2, 6, 6), 1)
    tensors = {name: t for name, t in observation.update.tensors.items() if not name.startswith("project")}
    hidden = frozenset({"project.weight", "project.bias"})
    partly = replace(observation, update=replace(observation.update, tensors=tensors), hidden=hidden)
    assert relative_error(solve(attack_named, NAME, partly), truth) < 1e-8


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.3])
def test_dropout_behind_the_positions_is_read_off_and_alternation_solves_the_rest(toy, attack_named, rate):
    observation, truth = toy(build(rate=rate), (2, 6, 6), 1)
    guess = solve(attack_named, NAME, observation)
    assert guess.masks is not None
    assert torch.equal(guess.masks[0], truth.masks[0][0])
    assert guess.diagnostics["zero share"] == pytest.approx(float((truth.masks[0][0] == 0).double().mean()))
    assert guess.stopped == "solved by alternating least squares"
    assert relative_error(guess, truth) < 1e-5


def test_the_rate_is_not_needed(toy, attack_named):
    observation, truth = toy(build(rate=0.2), (2, 6, 6), 1)
    sites = tuple(replace(site, rate=0.0) for site in observation.sites)
    threat = observation.threat.model_copy(update={"knows": ("batch-size",)})
    guess = solve(attack_named, NAME, replace(observation, sites=sites, threat=threat))
    assert relative_error(guess, truth) < 1e-5


def test_what_alternation_cannot_solve_is_declared_a_start(toy, attack_named):
    observation, truth = toy(build(rate=0.3, width=12), (2, 6, 6), 1)
    guess = solve(attack_named, NAME, observation, restarts=2)
    assert guess.stopped.startswith("a start for gradient matching, not a solution")
    assert torch.equal(guess.masks[0], truth.masks[0][0])
    assert guess.diagnostics["residual"] > 1e-6
    assert float(guess.inputs.abs().max()) <= 2.5  # pixels 0 and 1 at mean 0.5 and standard deviation 0.2


def test_patches_that_lost_too_many_entries_are_counted(toy, attack_named):
    observation, truth = toy(build(rate=0.7), (2, 6, 6), 1)
    kept = truth.masks[0][0][0, 1:].sum(1)
    guess = solve(attack_named, NAME, observation, restarts=1, sweeps=2)
    assert guess.diagnostics["patches short of entries"] == int((kept < 8).sum()) > 0


def test_a_rate_of_zero_and_no_dropout_at_all_give_the_same_bits(toy, attack_named):
    plain = build()
    without = build()
    without.drop = nn.Identity()
    first, second = (solve(attack_named, NAME, toy(model, (2, 6, 6), 1)[0]) for model in (plain, without))
    assert torch.equal(first.inputs, second.inputs)


def test_one_class_token_with_few_heads_is_too_little(toy, attack_named):
    guess = solve(attack_named, NAME, toy(build(pooled=False), (2, 6, 6), 1)[0])
    assert guess.stopped == "gave up: the gradient of 'position' has rank 5 for 10 tokens"  # two a head and one query
    assert not len(guess.inputs)
    observation, truth = toy(build(pooled=False, heads=6), (2, 6, 6), 1)
    assert relative_error(solve(attack_named, NAME, observation), truth) < 1e-8


def test_a_random_gradient_gives_nothing_better_than_grey(toy, attack_named, without_information):
    observation, truth = toy(build(), (2, 6, 6), 1)
    guess = solve(attack_named, NAME, without_information(observation))
    assert relative_error(guess, truth) > 0.9
    assert guess.objective > 0.1


def test_refuses_with_the_reason(toy, watched, attack_named):
    shape = (2, 6, 6)
    frozen = build()
    frozen.attention.k.requires_grad_(False)
    cifar = {"name": "foolbox-samples", "collection": "cifar10"}
    cases = {
        "2 images": toy(build(), shape, 2)[0],
        "3 local steps": replace(toy(build(), shape, 1)[0], local_steps=3),
        "no layer projects patches": watched()[0],
        "for example a residual connection": toy(build(skip=True), shape, 1)[0],
        "a normalisation intervenes": toy(build(before=nn.LayerNorm(24)), shape, 1)[0],
        "a normalisation intervenes ": watched(data=cifar, model={"name": "vit-small"})[0],
        "10 tokens for 8 features": toy(build(width=8), shape, 1)[0],
        "8 entries for 6 features": toy(build(width=6), shape, 1)[0],
        "'attention.k.weight' is hidden or not trained": toy(frozen, shape, 1)[0],
        "in front of their positions": toy(build(early=0.5), shape, 1)[0],
    }
    for reason, observation in cases.items():
        with pytest.raises(NotApplicable, match=reason.strip()):
            solve(attack_named, NAME, observation)


def test_it_leaves_observed_weights_and_update_alone(toy, attack_named, left_alone):
    observation, _ = toy(build(rate=0.2), (2, 6, 6), 1)
    with left_alone(observation):
        solve(attack_named, NAME, observation)
