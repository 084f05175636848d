"""The recording says what the attacks did: checked against attacks that are run here, and against the masks drawn."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.types import OnStep, Reconstruction, Step
from fedsim.demo import recording as recording_module
from fedsim.demo.pictures import bits
from fedsim.demo.recording import RecordedAttack, Recording, Scene
from fedsim.demo.victim import Attacker, Setting, attack_of, observe_client, world_of
from fedsim.metrics.image import score_items, to_pixels
from fedsim.metrics.missing import complete
from tests.demo.conftest import TINY

ATTACKERS: tuple[Attacker, ...] = ("ignores", "estimates", "knows", "exact")


def greys(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("L")) / 255


def scene(recording: Recording, **wanted: object) -> Scene:
    return next(s for s in recording.scenes if wanted.items() <= s.setting.model_dump().items())


def test_every_combination_is_recorded_once(recording: Recording) -> None:
    settings = [s.setting for s in recording.scenes]
    assert len(settings) == len(set(settings)) == 2 * 2 * (1 + 2)
    assert all(set(s.runs) == set(ATTACKERS) for s in recording.scenes)


@pytest.mark.parametrize("attacker", ["ignores", "estimates", "knows", "exact"])
def test_a_run_is_that_of_the_attack_itself(recording: Recording, attacker: Attacker) -> None:
    setting = Setting(rate=0.5, batch=2, protection="noise", noise=1.0)
    world = world_of(setting)
    observation, truth = observe_client(world, attacker)
    found = attack_of(attacker, 2, TINY.frames[-1])(
        observation, seeding.generator(world.scenario.seed, f"demo {attacker}")
    )
    found = complete(found, 2)
    items, order = score_items(found, truth.original_batches[0], world.data.dataset.spec)
    run = scene(recording, rate=0.5, batch=2, protection="noise", noise=1.0).runs[attacker]
    assert run.psnr == pytest.approx([item.values["psnr"] for item in items], abs=0.051)
    assert (run.used, run.stopped) == (found.iterations, found.stop_reason)
    shown = to_pixels(found.inputs[order], world.data.dataset.spec)[:, 0].permute(1, 0, 2).reshape(28, 56)
    assert np.abs(greys(run.strip)[-28:] - shown.numpy()).max() <= 0.5 / 15 + 0.5 / 255


def test_masks_are_those_that_were_drawn_and_agreement_is_their_share(recording: Recording) -> None:
    setting = Setting(rate=0.5, batch=1)
    _, truth = observe_client(world_of(setting), "ignores")
    drawn: Tensor = torch.cat([mask.flatten() for mask in truth.masks[0]])
    own = scene(recording, rate=0.5, batch=1, protection="none")
    assert own.masks == (bits(drawn),)
    assert sum(recording.units) == len(drawn)
    assert own.runs["exact"].agreement == 1.0
    assert 0 < own.runs["estimates"].agreement < 1
    for name in ("ignores", "knows"):  # one does not guess masks, the other need not
        assert (own.runs[name].agreement, own.runs[name].masks) == (None, ())


def test_closed_forms_are_exact_on_exact_gradients(recording: Recording) -> None:
    alone = scene(recording, rate=0.5, batch=1, protection="none").runs["exact"]
    both = scene(recording, rate=0.5, batch=2, protection="none").runs["exact"]
    assert min(*alone.psnr, *both.psnr) > 100
    assert alone.frames == alone.used == 1


def test_without_dropout_there_is_no_mask_and_one_search(recording: Recording) -> None:
    own = scene(recording, rate=0.0, batch=1, protection="none")
    assert own.masks == ()
    assert own.runs["ignores"] == own.runs["estimates"] == own.runs["knows"]
    assert own.runs["exact"].agreement is None


def test_frames_are_those_of_the_grid_and_the_last_is_the_result(recording: Recording) -> None:
    runs: list[RecordedAttack] = [run for s in recording.scenes for name, run in s.runs.items() if name != "exact"]
    assert {run.frames for run in runs} == {len(TINY.frames)}
    assert all(run.iterations == tuple(range(1, 7)) and run.used == 6 for run in runs)
    assert all(greys(run.strip).shape[0] == 28 * run.frames for run in runs)


def test_the_largest_batch_is_shown_and_its_labels(recording: Recording) -> None:
    world = world_of(Setting(batch=2))
    batch = next(world.data.batches(1, 0))
    assert recording.labels == tuple(map(str, batch.labels.tolist()))
    assert greys(recording.originals).shape == (28, 56)
    assert {name for name, facts in recording.grants.items() if "masks" in facts} == {"knows"}


def test_a_guess_of_fewer_images_is_recorded_with_those_it_lacks_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting(rate=0.0, batch=2, protection="none", noise=1.0)
    world = world_of(setting)
    observation, truth = observe_client(world, "exact")
    own = truth.original_batches[0]
    steps = [Step(1, 1, 1, 0.5, 0.5, own.inputs[:1])]

    def attack(_seen: object, _generator: object, on_step: OnStep) -> Reconstruction:
        on_step(steps[0])
        return Reconstruction(own.inputs[:1], own.labels[:1], None, 0.0, 1, 1, (), "done")

    monkeypatch.setattr(recording_module, "attack_of", lambda *_: attack)
    run = recording_module._run(world, observation, truth, "exact", TINY)
    assert run.failure == ""
    assert run.psnr == (160.0, 0.0)
    assert run.frames == 1
