"""Inverting Gradients of the package breaching, and how long attacks here take to reach its PSNR.

Breaching shows no guess before its last iteration, so its time is that of all iterations, whether or not fewer would
have reached the same PSNR; attacks here are timed until a guess first reaches it, which only the scorer sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks._programs import breaching, engine, stored, with_settings
from benchmarks._rows import Row, measured
from benchmarks._victims import PHOTOGRAPHS
from benchmarks._watch import Goal


def beside_breaching(
    setting: str, model: Mapping[str, Any], settings: Mapping[str, Any], victims: int, iterations: int, least: str
) -> Iterator[Row]:
    """Yield breaching's PSNR after so many iterations, and how much earlier attacks here reach it.

    Args:
        setting: what the rows are about.
        model: name and settings; without dropout, of which breaching knows nothing.
        settings: of inverting-gradients.
        victims: CIFAR-10 images, labels known.
        iterations: of breaching, whose schedule depends on them.
        least: how many times sooner inverting-gradients must be.
    """
    psnr, seconds = [], []
    ratios: dict[str, list[float]] = {"auto": [], "inverting-gradients": []}
    attack_settings: Mapping[str, Mapping[str, Any]] = {"auto": {}, "inverting-gradients": settings}
    with stored(PHOTOGRAPHS, model, victims) as task, breaching() as theirs, engine() as ours:
        theirs.ask(with_settings(task.model_copy(update={"attack": "invertinggradients"}), max_iterations=2))
        for attack in ratios:
            ours.ask(with_settings(task.model_copy(update={"attack": attack}), max_iterations=2))
        for victim in range(victims):
            one = task.model_copy(update={"victim": victim, "attack": "invertinggradients"})
            peer = theirs.ask(with_settings(one, max_iterations=iterations))
            psnr.append(peer.psnr)
            seconds.append(peer.seconds)
            for attack, ratio in ratios.items():
                goal = Goal("psnr", peer.psnr)
                aim = one.model_copy(update={"attack": attack, "goal": goal, "settings": attack_settings[attack]})
                run = ours.ask(aim)
                ratio.append(peer.seconds / run.seconds if run.reached or run.psnr >= peer.psnr else 0.0)
    where, musts = f"{setting}, {iterations} iterations of breaching", {"auto": ">= 5", "inverting-gradients": least}
    yield measured("breaching: PSNR", where, psnr, "dB", "")
    yield measured("breaching: seconds", where, seconds, "s", "")
    for attack, ratio in ratios.items():
        yield measured(f"breaching / {attack}: time to the same PSNR", where, ratio, "times", musts[attack])
