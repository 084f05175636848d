"""A scenario with a sampler: what stands in the record, and what is refused before training."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from fedsim.cli import display
from fedsim.core.errors import ScenarioError
from fedsim.experiment import runner
from fedsim.record import GenerationRecord
from fedsim.record.store import RunFolder
from fedsim.report.tables.generations import generations
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from fedsim.threat import drawing

Built = Callable[..., Scenario]
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
    return {**TABLES, **{name: {**TABLES[name], **own} for name, own in tables.items()}}


def drawn(scenario: Scenario, folder: Path) -> tuple[GenerationRecord, str]:
    own = RunFolder(folder)
    own.create(overwrite=False)
    record = runner.run(scenario, own, display.PlainLines(Console(file=StringIO())), command="test", earlier=None)
    (arm,) = record.arms
    assert arm.complete
    assert arm.generation is not None
    return arm.generation, generations(record)[0].told


def test_a_run_holds_what_was_drawn_and_what_was_planted(scenario: Built, tmp_path: Path) -> None:
    own, told = drawn(scenario(**TABLES), tmp_path / "run")
    assert own.failure is None
    assert (own.texts, own.endings) == (11, {"finished": 11})
    assert "11 samples" in told
    assert [(found.question, found.label, found.metric, found.role) for found in own.findings] == [
        ("drawn", "8 x 8 coarse pixels", "sample_distance", "attack"),
        ("drawn", "samples beside training images", "copied_share", "attack"),
        ("planted", "canaries of 0 copies, drawn", "images_drawn", "chance"),
        ("planted", "canaries of 0 copies, denoising loss", "trace_exposure", "chance"),
        ("planted", "canaries of 30 copies, drawn", "images_drawn", "attack"),
        ("planted", "canaries of 30 copies, denoising loss", "trace_exposure", "attack"),
    ]
    assert own.findings[1].chance is not None


def test_a_model_that_knows_a_canary_by_heart_exposes_it_and_no_other(scenario: Built) -> None:
    world = worlds.build(scenario(**changed(data={"canaries": 6, "repetitions": [0, 30]})))
    planted = [own for own in world.data.dataset.planted_images if own.examples]
    known = torch.stack([own.image for own in planted])

    class Knowing(torch.nn.Module):
        """Answers with the nearest canary that it knows."""

        def forward(self, x: torch.Tensor, noise: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return known[torch.cdist(x.flatten(1), known.flatten(1)).argmin(1)]

    pixels = drawing.to_pixels(known[:1], world.data.dataset.spec)
    for copies, alike in ((30, planted), (0, [own for own in world.data.dataset.planted_images if not own.examples])):
        is_drawn, exposure = drawing._canaries(world, Knowing(), pixels, alike, copies)
        assert is_drawn.found is not None
        assert exposure.found is not None
        assert is_drawn.found.value == pytest.approx(1 / 3 if copies else 0)
        # log2 of 128 candidates. At large levels each canary is answered by any of those that are known.
        assert (exposure.found.value > 5) == bool(copies)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"generation": {"attacks": [{"name": "trace-mean"}]}},
            "sampler 'heun' takes the same steps whatever it draws.*Leave attacks out",
        ),
        (
            {"generation": {"decoder": {"name": "euler", "guidance": 1.0}}, "model": {"classes": False}},
            "the model EdmUnet is told no classes",
        ),
        ({"generation": {"model": "client"}, "federation": {"algorithm": "fedsgd"}}, "clients send gradients"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_training(scenario: Built, tables: dict[str, Any], message: str) -> None:
    own = changed(**tables)
    if tables.get("model"):
        own["task"] = "denoising"
    if tables.get("federation"):
        own["federation"] = {"algorithm": "fedsgd", "clients": 1, "batch_size": 4}
    with pytest.raises(ScenarioError, match=message):
        drawing.check(worlds.build(scenario(**own)))


def test_a_classifier_draws_nothing(scenario: Built) -> None:
    own = {**TABLES, "task": "classification", "model": {"name": "mlp", "width": 8, "depth": 1}}
    with pytest.raises(ScenarioError, match="generation: the model .* predicts no noise"):
        drawing.check(worlds.build(scenario(**own)))
