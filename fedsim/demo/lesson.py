"""Everything that the recorded page shows: each set of pictures at all its sliders, and the questions of the quiz."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter

from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.core.types import Config
from fedsim.demo.jobs import Job, results_of
from fedsim.demo.parts import KeptParts
from fedsim.demo.pictures import contrast, strip
from fedsim.demo.recording import RecordedGrid, Recording, Scene, recording_of, scene_of
from fedsim.demo.victim import (
    Attacker,
    Pictures,
    Protection,
    Setting,
    attack_of,
    label_names,
    name_of,
    observe_client,
    world_of,
)
from fedsim.metrics.image import PSNR_CAP, psnr, to_pixels
from fedsim.scenario.world import World

LEAST_CONTRAST = 0.2  # of the way from black to white: three of the sixteen greys
_ANSWERS = 4  # choices for the class of a photograph
_CLIENTS: dict[Pictures, int] = {"digits": 8, "photographs": 3}  # clients after the first, which the sliders show

PHOTOGRAPHS = RecordedGrid(
    pictures="photographs", rates=(0.0, 0.5), batches=(1, 4), noises=(1.0,), frames=(1, 15, 40, 90, 200)
)
FULL = (RecordedGrid(), PHOTOGRAPHS)
QUICK = (
    RecordedGrid(rates=(0.0, 0.25, 0.5), batches=(1, 4), noises=(1.0, 100.0), frames=(1, 8, 25, 60, 130, 200)),
    PHOTOGRAPHS.model_copy(update={"batches": (1,), "frames": (1, 40, 200)}),
)


class QuizCase(NamedTuple):
    """Attacker and setting of a quiz question."""

    attacker: Attacker
    protection: Protection
    noise: float
    rate: float
    pictures: Pictures = "digits"


CASES: tuple[QuizCase, ...] = (
    QuizCase("ignores", "none", 1.0, 0.0),
    QuizCase("estimates", "none", 1.0, 0.25),
    QuizCase("exact", "none", 1.0, 0.5),
    QuizCase("ignores", "noise", 1.0, 0.0),
    QuizCase("knows", "none", 1.0, 0.5),
    QuizCase("ignores", "none", 1.0, 0.25),
    QuizCase("exact", "noise", 100.0, 0.0),
    QuizCase("ignores", "pruning", 1.0, 0.0),
    QuizCase("estimates", "none", 1.0, 0.5),
    QuizCase("knows", "noise", 1.0, 0.25),
    QuizCase("ignores", "none", 1.0, 0.5),
    QuizCase("exact", "noise", 10.0, 0.5),
    QuizCase("estimates", "none", 1.0, 0.75),
    QuizCase("ignores", "precode", 1.0, 0.0),
    QuizCase("estimates", "pruning", 1.0, 0.25),
    QuizCase("knows", "none", 1.0, 0.75),
    QuizCase("ignores", "none", 1.0, 0.0, "photographs"),
    QuizCase("estimates", "none", 1.0, 0.5, "photographs"),
    QuizCase("exact", "noise", 100.0, 0.0, "photographs"),
    QuizCase("knows", "none", 1.0, 0.5, "photographs"),
    QuizCase("ignores", "noise", 100.0, 0.0, "photographs"),
    QuizCase("exact", "none", 1.0, 0.5, "photographs"),
    QuizCase("ignores", "pruning", 1.0, 0.0, "photographs"),
    QuizCase("ignores", "precode", 1.0, 0.0, "photographs"),
)


class QuizQuestion(Config):
    """A guess of an attack, to recognise.

    Attributes:
        guess: the attack's result, as `fedsim.demo.pictures.strip` writes it.
        truth: the client's image, which the page shows after the answer.
        label: name of the image's class.
        answers: from which to choose, the label among them.
        attack: its name for `fedsim show`.
        psnr: of the guess, in dB.
    """

    pictures: Pictures
    guess: str
    truth: str
    label: str
    answers: tuple[str, ...]
    attack: str
    setting: Setting
    psnr: float


class Lesson(Config):
    """All data of the page."""

    sets: dict[Pictures, Recording]
    quiz: tuple[QuizQuestion, ...] = ()


Part = Scene | QuizQuestion | None
_PART: TypeAdapter[Part] = TypeAdapter(Part)


def parts_beside(page: Path) -> KeptParts[Part]:
    """Return the folder, next to the page, of the parts that a running recording has finished."""
    return KeptParts(page.with_name(f".{page.name}.parts"), _PART)


def installed_grids(grids: Sequence[RecordedGrid]) -> tuple[RecordedGrid, ...]:
    """Return the grids with installed pictures: photographs need a package of their own."""
    has_photographs = importlib.util.find_spec("foolbox") is not None
    return tuple(grid for grid in grids if has_photographs or grid.pictures != "photographs")


def record_lesson(
    chosen: tuple[RecordedGrid, ...],
    processes: int,
    on_job: Callable[[int, int], None],
    cases: tuple[QuizCase, ...] = CASES,
    kept: KeptParts[Part] | None = None,
) -> Lesson:
    """Run the grids and the attacks of the quiz.

    Args:
        chosen: settings to record, a grid per set of pictures.
        processes: number of parallel single-threaded processes.
        on_job: called first, and after each setting and question, with the numbers of finished and of all jobs.
        cases: of the quiz; cases with pictures that are not recorded are skipped.
        kept: finished parts of an interrupted recording; new parts are added.

    Raises:
        FedsimError: the pictures are not installed, or a process was killed.
    """
    scenes: list[Job] = [(scene_of, (setting, grid)) for grid in chosen for setting in grid.settings()]
    questions = [
        (question_of, (number, case, chosen[0].frames[-1]))
        for grid in chosen
        for number, case in enumerate(case for case in cases if case.pictures == grid.pictures)
    ]
    parts = _parts_of([*scenes, *questions], processes, on_job, kept)
    by_grid = iter(parts[: len(scenes)])
    return Lesson(
        sets={grid.pictures: recording_of(grid, [*islice(by_grid, len(grid.settings()))]) for grid in chosen},
        quiz=tuple(question for question in parts[len(scenes) :] if question is not None),
    )


def _parts_of(
    jobs: Sequence[Job], processes: int, on_job: Callable[[int, int], None], kept: KeptParts[Part] | None
) -> list[Any]:
    """Return the results of all jobs in their order; jobs with a kept result are not repeated."""
    done = {place: part[0] for place, job in enumerate(jobs) if kept and (part := kept.read(job))}
    on_job(len(done), len(jobs))
    left = [place for place in range(len(jobs)) if place not in done]
    for index, part in results_of([jobs[place] for place in left], processes):
        done[left[index]] = part
        if kept:
            kept.write(jobs[left[index]], part)
        on_job(len(done), len(jobs))
    return [done[place] for place in range(len(jobs))]


def question_of(number: int, case: QuizCase, iterations: int) -> QuizQuestion | None:
    """Attack a picture that the sliders do not show; return None if the guess is blank or the attack fails.

    Args:
        number: index of the case within its set of pictures; it chooses the picture.
        case: the client's setting and the attacker.
        iterations: of a search.
    """
    attacker, pictures = case.attacker, case.pictures
    setting = Setting(rate=case.rate, protection=case.protection, noise=case.noise)
    world = world_of(setting, pictures)
    turn, client = divmod(number, _CLIENTS[pictures])
    observation, truth = observe_client(world, attacker, client=1 + client, round_=1 + turn)
    try:
        reconstruction = attack_of(attacker, 1, iterations)(
            observation, seeding.generator(world.scenario.seed, f"demo quiz {number}")
        )
    except FedsimError:
        return None
    spec, batch = world.data.dataset.spec, truth.original_batches[0]
    pixels, original = to_pixels(reconstruction.inputs, spec), to_pixels(batch.inputs, spec)
    if not contrast(pixels) >= LEAST_CONTRAST:  # also where it is not a number
        return None
    (label,) = label_names(pictures, batch.labels)
    return QuizQuestion(
        pictures=pictures,
        guess=strip(pixels[None]),
        truth=strip(original[None]),
        label=label,
        answers=_answers(world, pictures, label, number),
        attack=name_of(attacker, 1),
        setting=setting,
        psnr=round(min(float(psnr(pixels, original)), PSNR_CAP), 1),
    )


def _answers(world: World, pictures: Pictures, label: str, number: int) -> tuple[str, ...]:
    """Return all digits, or the class of a photograph and other classes in alphabetical order."""
    names = sorted(set(label_names(pictures, world.data.dataset.train.labels)))
    if pictures == "digits":
        return tuple(names)
    wrong = [name for name in names if name != label]
    order = torch.randperm(len(wrong), generator=seeding.generator(world.scenario.seed, "demo answers", number))
    return tuple(sorted((label, *(wrong[place] for place in order[: _ANSWERS - 1].tolist()))))
