"""Everything that the recorded page shows: each set of pictures at all its sliders, and the questions of the quiz."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.core.types import Config
from fedsim.demo.jobs import Job, results_of
from fedsim.demo.pictures import contrast, strip
from fedsim.demo.recording import Grid, Recording, recording_of, scene_of
from fedsim.demo.victim import Attacker, Pictures, Protection, Setting, attack_of, name_of, observed, world_of
from fedsim.metrics.image import PSNR_CAP, psnr, to_pixels

LEAST_CONTRAST = 0.2  # of the way from black to white: three of the sixteen greys
_CLIENTS = 8  # those behind the first, whose digits the sliders show

PHOTOGRAPHS = Grid(pictures="photographs", rates=(0.0, 0.5), batches=(1, 4), noises=(1.0,), frames=(1, 15, 40, 90, 200))

Case = tuple[Attacker, Protection, float, float]  # the last two are the noise and the dropout rate

CASES: tuple[Case, ...] = (
    ("ignores", "none", 1.0, 0.0),
    ("estimates", "none", 1.0, 0.25),
    ("exact", "none", 1.0, 0.5),
    ("ignores", "noise", 1.0, 0.0),
    ("knows", "none", 1.0, 0.5),
    ("ignores", "none", 1.0, 0.25),
    ("exact", "noise", 100.0, 0.0),
    ("ignores", "pruning", 1.0, 0.0),
    ("estimates", "none", 1.0, 0.5),
    ("knows", "noise", 1.0, 0.25),
    ("ignores", "none", 1.0, 0.5),
    ("exact", "noise", 10.0, 0.5),
    ("estimates", "none", 1.0, 0.75),
    ("ignores", "precode", 1.0, 0.0),
    ("estimates", "pruning", 1.0, 0.25),
    ("knows", "none", 1.0, 0.75),
)


class Question(Config):
    """A guess of an attack, to recognise.

    Attributes:
        guess: PNG of the attack's result.
        truth: PNG of the client's image, which the page shows after the answer.
        label: digit of the image.
        attack: its name for `fedsim show`.
        psnr: of the guess, in dB.
    """

    guess: str
    truth: str
    label: str
    attack: str
    setting: Setting
    psnr: float


class Lesson(Config):
    """All data of the page."""

    sets: dict[Pictures, Recording]
    quiz: tuple[Question, ...] = ()


def grids() -> tuple[Grid, ...]:
    """Return the grids to record: digits, and photographs where the package that holds them is installed."""
    return (Grid(), PHOTOGRAPHS) if importlib.util.find_spec("foolbox") else (Grid(),)


def record_lesson(
    chosen: tuple[Grid, ...], processes: int, on_job: Callable[[int, int], None], cases: tuple[Case, ...] = CASES
) -> Lesson:
    """Run the grids and the attacks of the quiz.

    Args:
        chosen: settings to record, one grid for a set of pictures.
        processes: number of parallel processes, one thread each.
        on_job: called after each setting and question with the number of those done, and of all.
        cases: of the quiz.

    Raises:
        FedsimError: the pictures are not installed, or a process was killed.
    """
    iterations = chosen[0].frames[-1]
    jobs: list[Job] = [(scene_of, (setting, grid)) for grid in chosen for setting in grid.settings()]
    scenes = len(jobs)
    jobs += [(question_of, (number, case, iterations)) for number, case in enumerate(cases)]
    done: dict[int, Any] = {}
    for place, result in results_of(jobs, processes):
        done[place] = result
        on_job(len(done), len(jobs))
    parts = (done[place] for place in range(scenes))
    questions = (done[place] for place in range(scenes, len(jobs)))
    return Lesson(
        sets={grid.pictures: recording_of(grid, [next(parts) for _ in grid.settings()]) for grid in chosen},
        quiz=tuple(question for question in questions if question is not None),
    )


def question_of(number: int, case: Case, iterations: int) -> Question | None:
    """Attack one digit that the sliders do not show, or return None where the guess is blank."""
    attacker, protection, noise, rate = case
    setting = Setting(rate=rate, protection=protection, noise=noise)
    world = world_of(setting)
    observation, truth = observed(world, attacker, client=1 + number % _CLIENTS, round_=1 + number // _CLIENTS)
    try:
        found = attack_of(attacker, 1, iterations)(
            observation, seeding.generator(world.scenario.seed, f"demo quiz {number}")
        )
    except FedsimError:
        return None
    spec, own = world.data.dataset.spec, truth.private[0]
    pixels, original = to_pixels(found.inputs, spec), to_pixels(own.inputs, spec)
    if not contrast(pixels) >= LEAST_CONTRAST:  # also where it is not a number
        return None
    return Question(
        guess=strip(pixels[None]),
        truth=strip(original[None]),
        label=str(int(own.labels[0])),
        attack=name_of(attacker, 1),
        setting=setting,
        psnr=round(min(float(psnr(pixels, original)), PSNR_CAP), 1),
    )
