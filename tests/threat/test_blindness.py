"""What an attack is handed in a real run reaches nothing that nobody granted: observation, callback, generator, config.

The attack itself is real and runs twice, so that the second one comes after the originals were scored once.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from rich.console import Console
from rich.progress import Progress as Bars

from fedsim.cli import display
from fedsim.core.hooks import Attack
from fedsim.core.types import InputSpec, Knowledge, Observation, OnStep, Reconstruction, Step, Truth, WireEntry
from fedsim.experiment import runner, training
from fedsim.metrics.image import to_pixels
from fedsim.processes.methods import Progress
from fedsim.record.store import RunFolder
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from fedsim.scenario.world import World
from fedsim.threat.replay import Replay
from tests.experiment.running import Build
from tests.threat.reached import holds, reachable, tensors

KNOWLEDGE = get_args(Knowledge)
TWICE = [{"name": "inverting-gradients", "label": label, "max_iterations": 2} for label in ("first", "second")]
IMAGES: dict[str, dict[str, Any]] = {
    "one step": {"federation": {"clients": 2, "batch_size": 4}, "attacks": TWICE},
    "client-randomness": {
        "federation": {"clients": 2, "batch_size": 4},
        "components": [{"name": "cutmix", "probability": 1.0, "per_sample": True}],
        "attacks": TWICE,
    },
    "sum": {
        "federation": {"clients": 3, "batch_size": 4, "rounds": 2},
        "threat": {"view": "sum"},
        "attacks": TWICE,
    },
    "several rounds": {
        "federation": {"clients": 2, "batch_size": 1, "rounds": 2},
        "threat": {"rounds": [1, 2]},
        "attacks": TWICE,
    },
}


@dataclass
class Spy:
    """Keeps the truth of a run, and what could be reached when each attack began."""

    truths: list[Truth] = field(default_factory=list)
    entries: list[WireEntry] = field(default_factory=list)
    reached: list[list[torch.Tensor]] = field(default_factory=list)
    seen: list[Observation] = field(default_factory=list)

    def private(self, spec: InputSpec, granted: Sequence[str]) -> dict[str, list[torch.Tensor]]:
        """Every secret by what grants it; nothing grants the inputs."""
        secrets: dict[str, list[torch.Tensor]] = {"inputs": []}
        for truth in self.truths:
            for batch in (*truth.batches, *truth.original_batches):
                secrets["inputs"] += [batch.inputs, *batch.inputs]
                if spec.vocabulary is None:
                    pixels = to_pixels(batch.inputs, spec)
                    secrets["inputs"] += [pixels, *pixels]
            secrets.setdefault("masks", []).extend(mask for step in truth.masks for mask in step)
            secrets.setdefault("client-randomness", []).extend(own for step in truth.draws for own in step.values())
            secrets.setdefault("labels", []).extend(batch.labels for batch in truth.batches)
        return {kind: secret for kind, secret in secrets.items() if kind not in granted}


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    own, replayed, together = Spy(), training.replay, Attack.together

    def replay(world: World, entry: WireEntry) -> Replay:
        found = replayed(world, entry)
        own.truths.append(found.truth)
        own.entries.append(entry)
        return found

    @functools.wraps(together)
    def spied(
        self: Attack[Any],
        observations: Sequence[Observation],
        generators: Sequence[torch.Generator],
        on_steps: Sequence[OnStep],
        seconds: float | None,
    ) -> list[Reconstruction]:
        handed = (*observations, *generators, *on_steps, self, self.config)
        own.reached.append([tensor for one in handed for tensor in tensors(one)])
        own.seen += observations
        return together(self, observations, generators, on_steps, seconds)

    monkeypatch.setattr(training, "replay", replay)
    monkeypatch.setattr(Attack, "together", spied)
    monkeypatch.setattr("attacks.gradient_matching.inverting_gradients.InvertingGradients.uses_earlier_rounds", True)
    return own


def run(scenario: Scenario, folder: Path) -> None:
    folder.mkdir()
    watcher = display.PlainLines(Console(file=StringIO(), width=200))
    record = runner.run(scenario, RunFolder(folder), watcher, command="test", earlier=None)
    attacks = record.arms[0].attacks
    assert len(attacks) == 2
    assert [victim.failure for attack in attacks for victim in attack.victims if victim.failure] == []


@pytest.mark.parametrize("withheld", KNOWLEDGE)
@pytest.mark.parametrize("name", IMAGES)
def test_nothing_is_reached_but_what_is_granted(
    name: str, withheld: str, scenario: Build, spy: Spy, tmp_path: Path
) -> None:
    tables, knows = IMAGES[name], [known for known in KNOWLEDGE if known != withheld]
    told = scenario(**{**tables, "threat": {**tables.get("threat", {}), "knows": knows}})
    run(told, tmp_path / "run")
    assert len(spy.reached) >= 2
    secrets = spy.private(worlds.build(told).data.dataset.spec, knows)
    for found in spy.reached:
        assert found, "the walk found nothing at all: it proves nothing"
        for kind, secret in secrets.items():
            assert not any(holds(found, secret) for secret in secret if secret.numel() > 1), kind


def test_what_is_granted_is_reached_so_the_walk_sees(scenario: Build, spy: Spy, tmp_path: Path) -> None:
    tables = IMAGES["client-randomness"]
    run(scenario(**{**tables, "threat": {"knows": list(KNOWLEDGE)}}), tmp_path / "run")
    (truth,), found = spy.truths, spy.reached[1]
    assert all(holds(found, mask) for mask in truth.masks[0])
    assert all(holds(found, draw) for draw in truth.draws[0].values())
    assert holds(found, truth.original_batches[0].labels)


def test_earlier_rounds_are_reached_only_where_they_are_granted(scenario: Build, spy: Spy, tmp_path: Path) -> None:
    for number, granted in enumerate((["earlier-rounds"], [])):
        spy.truths, spy.entries, spy.seen = [], [], []
        threat = {"rounds": [1, 2], "knows": [*granted, "labels"]}
        run(scenario(**{**IMAGES["several rounds"], "threat": threat}), tmp_path / str(number))
        first = next(iter(spy.entries[0].update.tensors.values()))
        second = [one for one in spy.seen if not holds(tensors(one.update), first)]
        assert second
        assert all(holds(tensors(one), first) is bool(granted) for one in second)


def test_text_and_its_tokenizer_reach_no_sentence(scenario: Build, spy: Spy, tmp_path: Path) -> None:
    words = ["rain", "falls", "on", "seven", "green", "hills", "and", "nobody", "counts", "them"]
    documents = [" ".join(words[(d + 3 * k) % 10] for k in range(6)) + f". Number {d} ends here." for d in range(10)]
    (tmp_path / "text.txt").write_text("\n\n".join(documents))
    told = scenario(
        data={"name": "text-file", "path": str(tmp_path / "text.txt"), "length": 12, "words": 20},
        model={"name": "tiny-llama", "width": 16, "hidden": 16, "dropout": 0.1},
        partition={"scheme": "by-user"},
        federation={"clients": 3, "batch_size": 2},
        threat={"knows": ["batch-size", "dropout-rates"]},
        attacks=[{"name": "tag", "label": label, "max_iterations": 2} for label in ("first", "second")],
    )
    run(told, tmp_path / "run")
    world = worlds.build(told)
    secrets = spy.private(world.data.dataset.spec, ["client-randomness"])
    tokenizer = tensors(world.data.dataset.tokenizer)
    texts = [item for item in reachable(world.data.dataset.tokenizer) if isinstance(item, str)]
    assert not any(document in text for text in texts for document in documents)
    assert len(spy.reached) == 2
    for found in spy.reached:
        assert found
        assert not any(holds([*found, *tokenizer], secret) for own in secrets.values() for secret in own)


def test_the_callback_holds_a_watcher_and_a_stop_flag_and_nothing_else() -> None:
    shown: list[Step] = []
    progress = Progress(shown.append, lambda: len(shown) > 1, is_single=False)
    assert Progress.__slots__ == ("watch", "should_stop", "is_single", "latest")
    step = Step(0, 1, 2, 0.5, 0.5, torch.zeros(1))
    progress(step)
    progress(step)  # the second victim of the same iteration
    assert len(shown) == 1
    with pytest.raises(KeyboardInterrupt):
        progress(Step(0, 2, 2, 0.5, 0.5, torch.zeros(1)))


def test_a_live_display_keeps_no_picture() -> None:
    bars = Bars(console=Console(file=StringIO(), force_terminal=True))
    live = display.LiveBars(bars.console, bars)
    on_step = live.attack("first", 1, 1)
    on_step(Step(0, 20, 20, 0.5, 0.5, torch.rand(1, 1, 8, 8)))
    assert tensors(Progress(on_step, lambda: False, is_single=True)) == []
