"""A scenario with a sampler: what stands in the record, and what is refused before training."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.core.errors import ScenarioError
from fedsim.core.types import Event, Generated, Trace
from fedsim.questions.generation import images as sampled_images
from fedsim.questions.generation.images import copied_share, image_extraction_rate, is_among, nearness
from fedsim.questions.generation.side_channels import ScoringOptions
from fedsim.record import Finding
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from tests.experiment.running import Build, run

TABLES: dict[str, Any] = {
    "task": {"name": "denoising", "classes": True},
    "data": {"name": "digits", "train": 60, "test": 60, "canaries": 2, "repetitions": [0, 30]},
    "model": {"name": "edm-unet", "width": 8, "blocks": 1, "classes": True},
    "federation": {
        "algorithm": "fedavg",
        "clients": 1,
        "batch_size": 30,
        "local_epochs": 1,
        "optimizer": {"name": "adam", "learning_rate": 0.01},
    },
    "threat": {"victims": 1, "keep_updates": False},
    "generation": {"decoder": {"name": "heun", "steps": 2, "guidance": 0.5}, "samples": 11},
}


def changed(**tables: dict[str, Any]) -> dict[str, Any]:
    return {**TABLES, **{name: {**TABLES[name], **table} for name, table in tables.items()}}


def drawn(scenario: Scenario, folder: Path) -> list[Finding]:
    (arm,) = run(scenario, folder).arms
    assert arm.complete
    return list(arm.findings)


@pytest.mark.slow
def test_a_run_holds_what_was_drawn_and_what_was_planted(scenario: Build, tmp_path: Path) -> None:
    context, evaluations, *own = drawn(scenario(**TABLES), tmp_path / "run")
    assert (evaluations.label, evaluations.metric, evaluations.role) == (
        "evaluations per image",
        "mean_count",
        "context",
    )
    assert (context.role, context.failure, context.value) == ("context", "", None)
    assert (context.scope["texts"], context.scope["ended finished"]) == (11, 11)
    assert "11 samples" in context.note
    assert [(found.label, found.metric, found.role) for found in own] == [
        ("8 x 8 coarse pixels (drawn)", "sample_distance", "attack"),
        ("samples beside training images (drawn)", "copied_share", "attack"),
        ("canaries of 0 copies, drawn (planted)", "image_extraction_rate", "negative-control"),
        ("canaries of 0 copies, denoising loss (planted)", "trace_exposure", "negative-control"),
        ("canaries of 30 copies, drawn (planted)", "image_extraction_rate", "attack"),
        ("canaries of 30 copies, denoising loss (planted)", "trace_exposure", "attack"),
    ]
    assert {found.scope["by"] for found in own} == {"heun"}
    assert own[1].chance_level is not None


def test_a_model_that_knows_a_canary_by_heart_exposes_it_and_no_other(scenario: Build) -> None:
    world = worlds.build(scenario(**changed(data={"canaries": 6, "repetitions": [0, 30]})))
    planted = [planted_image for planted_image in world.data.dataset.planted_images if planted_image.examples]
    known = torch.stack([own.image for own in planted])

    class Knowing(torch.nn.Module):
        """Answers with the nearest canary that it knows."""

        def forward(self, x: torch.Tensor, noise: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return known[torch.cdist(x.flatten(1), known.flatten(1)).argmin(1)]

    pixels = sampled_images.to_pixels(known[:1], world.data.dataset.spec)
    for copies, alike in (
        (30, planted),
        (0, [planted_image for planted_image in world.data.dataset.planted_images if not planted_image.examples]),
    ):
        is_drawn, exposure = sampled_images._canaries(world, Knowing(), pixels, alike, copies)
        assert is_drawn.value.value == pytest.approx(1 / 3 if copies else 0)
        # log2 of 128 candidates. At large levels each canary is answered by any of those that are known.
        assert (exposure.value.value > 5) == bool(copies)


def test_a_trace_that_follows_the_class_tells_it_and_a_constant_one_does_not(scenario: Build) -> None:
    attacks = [{"name": "trace-figures", "view": view} for view in ("work", "counts")]
    world = worlds.build(scenario(**changed(generation={"attacks": attacks})))
    image = torch.zeros(1, 8, 8)
    drawn = [
        Generated(Trace((1, 1), (Event(passes=number % 10), Event(passes=1))), "finished", x=image)
        for number in range(60)
    ]
    work, counts = sampled_images._bits(world, drawn, ScoringOptions())
    assert (work.metric, counts.metric, work.role) == ("trace_bits", "trace_bits", "attack")
    assert work.value.value > 2.5  # of log2(10) = 3.3 bits, by an estimate that is biased downwards
    assert counts.value.value == 0.0


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"generation": {"attacks": [{"name": "trace-figures"}, {"name": "trace-mean"}]}},
            "question 'member' is about texts, and sampler 'heun' draws images.*remove generation.attacks",
        ),
        (
            {"generation": {"decoder": {"name": "euler", "guidance": 1.0}}, "model": {"classes": False}},
            "model EdmUnet has no classes",
        ),
        ({"generation": {"model": "client"}, "federation": {"algorithm": "fedsgd"}}, "clients send gradients"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_training(scenario: Build, tables: dict[str, Any], message: str) -> None:
    own = changed(**tables)
    if tables.get("model"):
        own["task"] = "denoising"
    if tables.get("federation"):
        own["federation"] = {"algorithm": "fedsgd", "clients": 1, "batch_size": 4}
    with pytest.raises(ScenarioError, match=message):
        sampled_images.check(worlds.build(scenario(**own)))


@pytest.mark.parametrize("attacks", [[], [{"name": "trace-mean"}]])
def test_a_classifier_draws_nothing(scenario: Build, attacks: list[dict[str, Any]]) -> None:
    own = changed(generation={"attacks": attacks})
    own |= {"task": "classification", "model": {"name": "mlp", "width": 8, "depth": 1}}
    with pytest.raises(ScenarioError, match="generation: the model .* predicts no noise"):
        sampled_images.check(worlds.build(scenario(**own)))


def images() -> torch.Tensor:
    return torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_copies_are_copies_and_new_images_are_none() -> None:
    known, new = images()[:100], images()[100:]
    nearly = known[:10] + 0.01
    assert copied_share(nearly, known).value == 1
    assert copied_share(new, known).value == 0
    assert nearness(nearly, known)[1].tolist() == list(range(10))


def test_an_image_that_is_repeated_is_no_neighbour_of_itself() -> None:
    known = torch.cat((images()[:100], images()[:1].expand(60, -1, -1, -1)))
    assert copied_share(images()[:1] + 0.01, known).value == 1


def test_a_sample_is_an_image_again_within_a_tenth_of_the_range() -> None:
    image = images()[0]
    assert is_among(torch.stack((images()[1], image + 0.09)), image)
    assert not is_among((image + 0.11)[None], image)
    assert image_extraction_rate([True, False]).value == 0.5
