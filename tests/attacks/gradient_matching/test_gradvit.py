import pytest
import torch
from torch import nn

from attacks.core.matching.terms import sum_of
from fedsim.core import seeding
from tests.attacks.core.matching.measures import alone
from tests.attacks.solving import attack_named, solve, toy

NAME = "gradvit"


class Transformer(nn.Module):
    """Four patches of 4 x 4 pixels, learned positions, one block, the mean of the tokens."""

    def __init__(self, *, rate: float = 0.0, norm: bool = False):
        super().__init__()
        self.project = nn.Conv2d(1, 24, 4, 4)
        self.norm = nn.BatchNorm1d(4, momentum=1.0) if norm else nn.Identity()
        self.position = nn.Parameter(torch.randn(4, 24))
        self.drop = nn.Dropout(rate)
        self.body = nn.TransformerEncoderLayer(24, 2, 24, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(24, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(self.project(x).flatten(2).transpose(1, 2)) + self.position
        return self.head(self.body(self.drop(tokens)).mean(1))


def build(**settings: object) -> Transformer:
    with seeding.isolate_randomness(1):
        return Transformer(**settings)


@pytest.mark.paper_step("gradvit", "two stages of the objective")
@pytest.mark.slow
def test_it_lowers_the_distance_in_both_stages():
    observation, truth = toy(build(rate=0.25), (1, 8, 8), 1, dtype=torch.float32)
    steps = []
    attack = attack_named(NAME, max_iterations=300, restarts=2)
    guess = attack(observation, torch.Generator().manual_seed(0), steps.append)
    assert guess.iterations == 2 * 150 + 150
    assert [step.iteration for step in steps] == list(range(1, 301))
    first, second = steps[:150], steps[150:]
    assert min(s.objective for s in first) < 0.5 * first[0].objective
    assert guess.objective == min(s.objective for s in second)
    begin = torch.randn((1, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    wanted = truth.batches[0].inputs
    assert (guess.inputs - wanted).norm() < 0.5 * (begin - wanted).norm()


@pytest.mark.paper_step("gradvit", "image statistics in the second stage")
def test_statistics_count_only_in_the_second_stage_and_only_where_the_model_has_them():
    without, _ = toy(build(), (1, 8, 8), 2)
    with_statistics, _ = toy(build(norm=True), (1, 8, 8), 2)
    generator = torch.Generator().manual_seed(0)
    dummy = torch.randn((1, 2, 1, 8, 8), generator=generator, dtype=torch.float64)
    for observation, has in ((without, False), (with_statistics, True)):
        later = sum_of(attack_named(NAME).config.later_priors, alone(observation))
        assert (float(later(dummy, (), [0])) > 1e-6) is has
    assert "no running statistics" in " ".join(solve(NAME, without, max_iterations=4).notes)


def test_models_without_patches_are_refused():
    observation, _ = toy(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), (1, 8, 8), 1)
    verdict = attack_named(NAME).applicable(observation)
    assert not verdict.holds
    assert "use gradinversion" in verdict.reason
