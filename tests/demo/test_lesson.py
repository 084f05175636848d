"""A lesson is its grids and its quiz, the same from one process or two; photographs keep their colours."""

import base64
import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from fedsim.demo import lesson as lessons
from fedsim.demo.lesson import (
    CASES,
    FULL,
    PHOTOGRAPHS,
    QUICK,
    installed_grids,
    parts_beside,
    question_of,
    record_lesson,
)
from fedsim.demo.recording import scene_of
from fedsim.demo.victim import Setting, world_of
from tests.demo.conftest import TINY

ONE = TINY.model_copy(
    update={"batches": (1,), "noises": (1.0,), "protections": ("none",), "attackers": ("exact",), "frames": (1,)}
)


def test_a_lesson_is_its_scenes_and_its_quiz() -> None:
    told: list[tuple[int, int]] = []
    alone = record_lesson((ONE,), 1, lambda *done: told.append(done), CASES[2:3])
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert len(alone.sets["digits"].scenes) == 2
    assert [question.psnr > 100 for question in alone.quiz] == [True]


@pytest.mark.slow
def test_two_processes_record_the_same_as_one() -> None:
    alone, together = (record_lesson((ONE,), jobs, lambda *_done: None, CASES[2:3]) for jobs in (1, 2))
    assert alone == together


def test_a_blank_guess_is_no_question(monkeypatch: pytest.MonkeyPatch) -> None:
    assert question_of(2, CASES[2], 1) is not None
    for blank in (0.0, torch.nan):
        monkeypatch.setattr(lessons, "to_pixels", lambda inputs, _spec, blank=blank: torch.full_like(inputs, blank))
        assert question_of(2, CASES[2], 1) is None


def test_photographs_are_in_colour_and_belong_to_a_grid_of_their_own() -> None:
    if PHOTOGRAPHS not in installed_grids(FULL):
        pytest.skip("foolbox is not installed")
    grid = PHOTOGRAPHS.model_copy(update={"attackers": ("exact",), "frames": (1,)})
    setting = Setting(rate=0.5, batch=1)
    run = scene_of(setting, grid).runs["exact"]
    assert run.psnr[0] > 100
    picture = Image.open(io.BytesIO(base64.b64decode(run.strip)))
    shown = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8).reshape(48, 48, 3)
    world = world_of(setting, "photographs")
    spec = world.data.dataset.spec
    true = lessons.to_pixels(next(world.data.batches(1, 0)).inputs, spec)[0].permute(1, 2, 0)
    assert (shown / 255 - true).abs().mean() < 0.05  # WebP loses some
    assert shown.float().std(2).max() > 10


def test_a_photograph_is_asked_for_by_name_and_shown_nowhere_else() -> None:
    if PHOTOGRAPHS not in installed_grids(FULL):
        pytest.skip("foolbox is not installed")
    cases = [case for case in CASES if case.pictures == "photographs"]
    exact = [(number, case) for number, case in enumerate(cases) if case.attacker == "exact"]
    asked = [question for number, case in exact if (question := question_of(number, case, 1))]
    assert len(asked) == len(exact) > 1
    for question in asked:
        assert len(set(question.answers)) == 4
        assert question.label in question.answers
        assert list(question.answers) == sorted(question.answers)  # their order tells nothing
    world = world_of(Setting(rate=0.5, batch=1), "photographs")
    private = [next(world.data.batches(1 + n // 3, 1 + n % 3)).inputs[0] for n in range(len(cases))]
    on_sliders = world.data.dataset.train.inputs[world.data.shares[0]]
    for place, picture in enumerate(private):
        assert not any(torch.equal(picture, other) for other in (*private[:place], *on_sliders))


def test_questions_about_pictures_that_are_not_recorded_are_left_out() -> None:
    photograph = next(case for case in CASES if case.pictures == "photographs")
    assert record_lesson((ONE.model_copy(update={"rates": (0.5,)}),), 1, lambda *_done: None, (photograph,)).quiz == ()


def test_only_digits_are_recorded_where_the_photographs_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert [grid.pictures for grid in installed_grids(FULL)] == ["digits"]
    assert [grid.pictures for grid in installed_grids(QUICK)] == ["digits"]


def test_a_recording_that_was_interrupted_goes_on_where_it_ended(tmp_path: Path) -> None:
    kept = parts_beside(tmp_path / "demo.html")

    def stop(done: int, _all: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record_lesson((ONE,), 1, stop, CASES[2:3], kept)
    counts: list[int] = []
    went_on = record_lesson((ONE,), 1, lambda done, _all: counts.append(done), CASES[2:3], kept)
    assert counts == [2, 3]
    assert went_on == record_lesson((ONE,), 1, lambda *_done: None, CASES[2:3])


def test_the_quick_page_has_settings_of_the_whole_one() -> None:
    for quick, full in zip(QUICK, FULL, strict=True):
        assert quick.pictures == full.pictures
        assert set(quick.settings()) < set(full.settings())
