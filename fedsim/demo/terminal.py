"""The demo in a terminal: two attackers side by side on one gradient, in half-block pixels."""

from __future__ import annotations

import torch
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.types import Step
from fedsim.demo.victim import Attacker, Setting, attack_of, name_of, observed, world_of
from fedsim.metrics.image import psnr, to_pixels

_ITERATIONS = 200
_REFRESH_EVERY = 5
_SHOWN: tuple[Attacker, ...] = ("ignores", "estimates", "exact")


def show(console: Console, setting: Setting) -> None:
    """Attack one digit with each attacker; on a terminal draw guesses as they change, elsewhere only the last ones.

    Args:
        console: a terminal, or anything else.
        setting: the client's setting, with one image.

    Raises:
        MissingExtra: the digits are not installed.
    """
    world = world_of(setting)
    spec = world.data.dataset.spec
    original = to_pixels(next(world.data.batches(1, 0)).inputs, spec)
    pictures = {"original": (half_blocks(original[0, 0]), f"dropout p = {setting.rate:g}")}
    with Live(console=console, auto_refresh=False) as live:

        def draw(name: str, guess: Tensor, told: str) -> None:
            pixels = to_pixels(guess.detach(), spec)
            pictures[name] = (half_blocks(pixels[0, 0]), f"{told}, {float(psnr(pixels, original)):.1f} dB")
            live.update(_table(pictures), refresh=console.is_terminal)

        for attacker in _SHOWN:
            observation, _ = observed(world, attacker)
            name = name_of(attacker, 1)

            def on_step(step: Step, name: str = name) -> None:
                if step.iteration % _REFRESH_EVERY == 1:
                    draw(name, step.guess, f"iteration {step.iteration}")

            generator = seeding.generator(world.scenario.seed, f"demo {attacker}")
            found = attack_of(attacker, 1, _ITERATIONS)(observation, generator, on_step)
            draw(name, found.inputs, f"iteration {found.iterations}")


def half_blocks(pixels: Tensor) -> Text:
    """Return an image (H, W), H even, as text: each character shows two pixels, one above the other."""
    greys = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).tolist()
    text = Text(no_wrap=True)
    for upper, lower in zip(greys[::2], greys[1::2], strict=True):
        for top, bottom in zip(upper, lower, strict=True):
            text.append("▀", f"rgb({top},{top},{top}) on rgb({bottom},{bottom},{bottom})")
        text.append("\n")
    return text


def _table(pictures: dict[str, tuple[Text, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row(*(Group(Text(name, "bold"), picture, Text(told)) for name, (picture, told) in pictures.items()))
    return table
