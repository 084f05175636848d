"""The examples of scenarios/46_audit_outputs, as their README audits them: each gives example and target back."""

import re
from pathlib import Path

import numpy as np
import pytest

from fedsim.audit.loading import load, load_subject
from fedsim.audit.subject import check_subject
from tests.audit.adapters.recovering import attacked

FOLDER = Path(__file__).parents[2] / "scenarios" / "46_audit_outputs"
READ = {
    "outputs.py:make_regression": "target_read",
    "outputs.py:make_multi_label": "set_read",
    "outputs.py:make_segmentation": "mask_iou",
    "outputs.py:make_series": "target_read",
    "outputs.py:make_heads": "heads_read",
    "outputs.py:make_recurrent": "target_read",
    "outputs.py:make_detector": "heads_read",
    "outputs.py:make_volume_masks": "mask_iou",
}
PAIRED = (("views.py:make_views", 1), ("views.py:make_contrast", 4))
SEARCHED = ("outputs.py:make_volumes",)  # by gauss-newton, until the clock ends it


@pytest.mark.parametrize(
    "target", [pytest.param(one, marks=[pytest.mark.slow] if "volume" in one else []) for one in READ]
)
def test_one_example_comes_back_with_its_target(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    monkeypatch.syspath_prepend(str(FOLDER))
    finding = attacked(load_subject(load(target), target))
    assert finding.value.value == 1.0
    assert [victim.scores[0].values[READ[target]] for victim in finding.victims] == [1.0, 1.0]


def test_the_readme_names_every_example() -> None:
    named = re.findall(r"^fedsim audit (\S+)", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert named == [*READ, *(target for target, _ in PAIRED), *SEARCHED]


@pytest.mark.parametrize(("target", "pairs"), [PAIRED[0], pytest.param(*PAIRED[1], marks=pytest.mark.slow)])
def test_both_views_of_each_picture_come_back(target: str, pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    monkeypatch.syspath_prepend(str(FOLDER))
    finding = attacked(load_subject(load(target), target), pairs)
    assert [len(victim.scores) for victim in finding.victims] == [2 * pairs, 2 * pairs]
    # Exact up to rounding: half a step of 256 levels is 54 dB.
    assert all(item.values["psnr"] > 60 for victim in finding.victims for item in victim.scores)


def test_volumes_of_a_conv3d_client_are_taken_and_shown_by_their_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    monkeypatch.syspath_prepend(str(FOLDER))
    sound = check_subject(load_subject(load(SEARCHED[0]), SEARCHED[0]), SEARCHED[0])
    assert (sound.task.name, sound.task.noun_of(sound.dataset.spec)) == ("classification", "image")
    volumes = sound.dataset.train.inputs[:3]
    shown = sound.task.show(volumes, sound.dataset)
    assert isinstance(shown, np.ndarray)
    assert shown.shape == (3, 1, 16, 8)
    assert np.array_equal(shown[1, 0, 8:], volumes[1, 0, 1].numpy())
