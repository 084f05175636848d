"""The demo in a terminal: several attackers in turn on the same gradient, in half-block pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.types import Step
from fedsim.demo.messages import Language, messages
from fedsim.demo.victim import Attacker, Setting, attack_of, name_of, observe_client, world_of
from fedsim.metrics.image import psnr, to_pixels

_ITERATIONS = 200
_REFRESH_EVERY = 5
_SHOWN: tuple[Attacker, ...] = ("ignores", "estimates", "exact")


def show(console: Console, setting: Setting, language: Language = "en") -> None:
    """Attack a digit with each attacker in turn and draw guess and original, in 80 columns and 24 lines per attacker.

    A terminal shows guesses as they change, other outputs only the final guesses.

    Args:
        console: a terminal or another output.
        setting: the client's setting, with one image.
        language: of the words.

    Raises:
        MissingExtra: the digits are not installed.
    """
    world = world_of(setting)
    spec, words = world.data.dataset.spec, messages(language)
    original = to_pixels(next(world.data.batches(1, 0)).inputs, spec)
    truth = (
        words["terminal.original"],
        half_blocks(original[0, 0]),
        words["terminal.setting"].format(rate=f"{setting.rate:g}"),
    )
    for attacker in _SHOWN:
        observation, _ = observe_client(world, attacker)
        name = name_of(attacker, 1)
        with Live(console=console, auto_refresh=False) as live:

            def draw(guess: Tensor, iteration: int, name: str = name, live: Live = live) -> None:
                pixels = to_pixels(guess.detach(), spec)
                caption = words["terminal.told"].format(
                    iteration=iteration, psnr=f"{float(psnr(pixels, original)):.1f}"
                )
                live.update(_table(truth, (name, half_blocks(pixels[0, 0]), caption)), refresh=console.is_terminal)

            def on_step(step: Step, draw: Callable[[Tensor, int], None] = draw) -> None:
                if step.iteration % _REFRESH_EVERY == 1:
                    draw(step.guess, step.iteration)

            generator = seeding.generator(world.scenario.seed, f"demo {attacker}")
            reconstruction = attack_of(attacker, 1, _ITERATIONS)(observation, generator, on_step)
            draw(reconstruction.inputs, reconstruction.iterations)
        console.print()


def half_blocks(pixels: Tensor) -> Text:
    """Return an image (H, W), H even, as text: each character shows two vertically adjacent pixels."""
    greys = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).tolist()
    text = Text(no_wrap=True)
    for upper, lower in zip(greys[::2], greys[1::2], strict=True):
        for top, bottom in zip(upper, lower, strict=True):
            text.append("▀", f"rgb({top},{top},{top}) on rgb({bottom},{bottom},{bottom})")
        text.append("\n")
    return text


def _table(*pictures: tuple[str, Text, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row(*(Group(Text(name, "bold"), picture, Text(caption)) for name, picture, caption in pictures))
    return table
