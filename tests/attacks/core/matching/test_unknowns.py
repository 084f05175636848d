"""What every block of unknowns promises, kind by kind; then how blocks stand together."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from attacks.core.matching.unknown_masks import DrawnMasks, GivenMasks, OptimisedMasks
from attacks.core.matching.unknowns import Block, Bounded, Gaussian, Logits, SearchProgress, Unknowns, UnknownWeight
from attacks.local_steps._surrogate import bends, make_path_unknown
from attacks.mixed_batches._cutmix_client import Boxes
from fedsim.core.types import DropoutSite, Masks

SITES = (DropoutSite(0, "a", 0.5, (2, 4)), DropoutSite(1, "b", 0.25, (2, 3), odds=(0.2, 0.3, 0.5)))
KNOWN = {0: torch.tensor([[0.0, 1.0, torch.nan, torch.nan], [torch.nan] * 4])}


@dataclass(frozen=True)
class Kind:
    """A block, and the range of its variables."""

    block: Block
    low: float = -torch.inf
    high: float = torch.inf


def optimised(**settings: object) -> Kind:
    block = replace(OptimisedMasks(sites=SITES, known_masks=(KNOWN,), weight=0.1), **settings)  # type: ignore[arg-type]
    return Kind(block) if block.relaxation == "sigmoid" else Kind(block, 0.0, 1.0)


KINDS = {
    "bernoulli masks": optimised(),
    "masks from ones": optimised(begin="ones"),
    "masks from means": optimised(begin="mean"),
    "rounded masks": optimised(relaxation="straight-through"),
    "logits of masks": optimised(relaxation="sigmoid"),
    "bounded": Kind(Bounded("place", start=(torch.tensor(0.5),)), 0.0, 1.0),
    "share": Kind(UnknownWeight("share"), 0.0, 1.0),
    "logits": Kind(Logits("order", shape=(3, 3), coldest=0.1)),
    "noise": Kind(Gaussian("noise", shapes=((2, 3), (4,)), weight=0.5)),
    "no noise": Kind(Gaussian("noise", shapes=((3,),), weight=0.5, is_zero=True)),
    "place": Kind(make_path_unknown(0.5, 1e-3), 0.0, 1.0),
    "bend": Kind(bends({"w": torch.randn(2, 3)}, 0.1, 1e-3)[0]),
    "boxes": Kind(Boxes("boxes", count=3), 0.0, 1.0),
}
EVERY = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
Drawn = Callable[[Kind], Masks]


@pytest.fixture
def drawn() -> Drawn:
    """Start values of two rows."""

    def draw(kind: Kind) -> Masks:
        rows = [kind.block.first(torch.Generator().manual_seed(seed)) for seed in (1, 2)]
        return tuple(torch.stack(tensors).requires_grad_() for tensors in zip(*rows, strict=True))

    return draw


def within(variables: Masks, kind: Kind) -> bool:
    return all(bool(((own >= kind.low) & (own <= kind.high)).all()) for own in variables)


def row_by_row(values: Masks, kind: Kind) -> Tensor:
    return torch.as_tensor(kind.block.prior(values)).expand(len(values[0]))


@EVERY
def test_it_starts_in_its_range_and_the_same_seed_starts_alike(kind: Kind, drawn: Drawn) -> None:
    variables = drawn(kind)
    assert variables
    assert within(variables, kind)
    assert all(torch.equal(one, other) for one, other in zip(variables, drawn(kind), strict=True))


@EVERY
def test_a_projection_brings_variables_into_their_range_and_leaves_those_inside(kind: Kind, drawn: Drawn) -> None:
    variables = tuple(own.detach() + 3.0 * torch.randn(own.shape) for own in drawn(kind))
    kind.block.project(variables)
    assert within(variables, kind)
    before = tuple(own.clone() for own in variables)
    kind.block.project(variables)
    assert all(torch.equal(one, other) for one, other in zip(variables, before, strict=True))


@EVERY
@pytest.mark.parametrize("done", [0.0, 0.5, 1.0])
def test_values_and_their_prior_are_finite_row_by_row_and_differentiable(kind: Kind, drawn: Drawn, done: float) -> None:
    variables = drawn(kind)
    values = kind.block.forward_values(variables, SearchProgress([0, 0], [], done))
    assert [own.shape for own in values] == [own.shape for own in variables]
    prior = row_by_row(values, kind)
    assert prior.shape == (2,)
    assert torch.isfinite(prior).all()
    assert (prior >= 0.0).all()
    slopes = torch.autograd.grad(prior.sum() + sum(own.sum() for own in values), variables)
    assert all(bool(torch.isfinite(slope).all()) for slope in slopes)
    assert any(bool(slope.any()) for slope in slopes)
    alone = tuple(own[1:] for own in values)
    assert torch.allclose(row_by_row(alone, kind), prior[1:])


@EVERY
def test_it_steps(kind: Kind) -> None:
    assert kind.block.rate > 0.0
    assert Unknowns((kind.block,)).with_rate(0.25).rates() == {kind.block.name: 0.25}


@pytest.mark.parametrize("name", [name for name in KINDS if name not in ("noise", "no noise", "bend")])
def test_values_become_a_start(name: str, drawn: Drawn) -> None:
    kind = KINDS[name]
    values = kind.block.forward_values(drawn(kind), SearchProgress([0, 0]))
    other = kind.block.starting_at(tuple(own[1].detach() for own in values))
    again = other.forward_values(tuple(own[None] for own in other.first(torch.Generator())), SearchProgress())
    for one, own in zip(again, values, strict=True):
        assert torch.allclose(one[0], own[1], atol=0.02)  # logits of sure masks end at 0.018


def test_the_prior_of_noise_is_that_of_a_normal_law() -> None:
    noise = Gaussian("noise", shapes=((2, 3), (4,)), weight=0.5)
    first = noise.first(torch.Generator().manual_seed(0))
    rows = tuple(torch.stack([own, 2.0 * own]) for own in first)
    expected = [0.25 * factor * sum(float(own.square().mean()) for own in first) for factor in (1.0, 4.0)]
    assert torch.as_tensor(noise.prior(rows)).tolist() == pytest.approx(expected)


def test_logits_harden_as_the_search_goes_on() -> None:
    logits = Logits("order", shape=(2,), coldest=0.1)
    variables = (torch.tensor([[1.0, -2.0]]),)
    assert logits.forward_values(variables, SearchProgress())[0].tolist() == [[1.0, -2.0]]
    assert logits.forward_values(variables, SearchProgress(completed_share=1.0))[0].flatten().tolist() == pytest.approx(
        [10.0, -20.0]
    )


def test_known_masks_are_their_victims_and_drawn_ones_their_generators() -> None:
    masks = [(torch.zeros(2, 4),), (torch.ones(2, 4),)]
    given = GivenMasks(victim_masks=tuple(masks))
    assert given.first(torch.Generator()) == ()
    assert given.forward_values((), SearchProgress([1, 0, 1]))[0].mean((1, 2)).tolist() == [1.0, 0.0, 1.0]
    fresh = DrawnMasks(sites=SITES[:1], sets=3)
    assert fresh.draws == 3
    rows = [
        fresh.forward_values((), SearchProgress([0, 1], [torch.Generator().manual_seed(seed) for seed in seeds]))[0]
        for seeds in ((1, 2), (1, 3))
    ]
    assert rows[0].shape == (2, 6, 4)
    assert torch.equal(rows[0][0], rows[1][0])
    assert not torch.equal(rows[0][1], rows[1][1])


def test_blocks_are_told_apart_by_name_and_draw_one_after_the_other() -> None:
    masks = Unknowns((OptimisedMasks(sites=SITES, rate=0.2),))
    unknowns = masks.followed_by(UnknownWeight("share", 0.3))
    generator, again = (torch.Generator().manual_seed(4) for _ in range(2))
    first = unknowns.first(generator)
    assert list(first) == ["masks", "share"]
    expected = masks.first(again)["masks"]
    assert all(torch.equal(one, other) for one, other in zip(first["masks"], expected, strict=True))
    assert torch.equal(first["share"][0], torch.rand(1, generator=again))
    assert unknowns.rates() == {"masks": 0.2, "share": 0.3}
    moved = unknowns.starting_at({"share": (torch.tensor([0.75]),)}).first(torch.Generator())
    assert moved["share"][0].tolist() == [0.75]


def test_nothing_is_searched_without_sites() -> None:
    masks = Unknowns((OptimisedMasks(weight=0.1),))
    assert masks.first(torch.Generator()) == {}
    assert masks.forward_values({}, SearchProgress([0, 1])) == {"masks": ()}
    assert masks.prior({"masks": ()}) == 0.0
    masks.project({})
    assert Unknowns().prior({}) == 0.0
    assert Unknowns().draws == 1
