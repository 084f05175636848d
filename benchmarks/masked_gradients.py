"""What one gradient of a masked diffusion model says of its client's text: visible tokens, masked ones, and the weight.

A victim is a client's first gradient of `tiny-llada` at fresh weights on sentences of news of up to 16 tokens. Rows are
shares of each victim's tokens, means over victims; least and greatest are the ends of their 95 % interval, by bootstrap
over victims. Visible words are those whose row in the embedding's gradient is not zero, as `word-readout` reads them;
masked words those whose row in the output layer's gradient stands out. Counted are sentences with a masked place, since
others have no gradient. The span is that of the first attention, as `dager` reads it: a token counts if it is found at
its place. An attack that refuses, or finds no sentence, is named on the error stream with its reason.

Does the weight 1 / p sharpen the leak? The same masked places of batches of four are weighted by 1 / p and by 1, under
the same noise: the share of a sentence's masked tokens that stand out, where its rate is below a half, and above. Units
are sentences.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import sys  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from attacks.core.fired_rows import outstanding_rows  # noqa: E402
from attacks.core.results import NothingFound  # noqa: E402
from attacks.text._words import words_of  # noqa: E402
from attacks.text.dager import Dager, DagerConfig  # noqa: E402
from benchmarks._rows import Row, main, with_interval  # noqa: E402
from fedsim.core import registry, seeding  # noqa: E402
from fedsim.core.errors import NotApplicable  # noqa: E402
from fedsim.core.gradients import gradient_of  # noqa: E402
from fedsim.core.types import Knowledge, Observation, Truth, WireEntry  # noqa: E402
from fedsim.federation.client import local_training  # noqa: E402
from fedsim.scenario import parse  # noqa: E402
from fedsim.scenario.world import World, shared  # noqa: E402
from fedsim.threat.observe import observe  # noqa: E402
from fedsim.threat.victim import Victim  # noqa: E402

_TOLD: dict[str, tuple[Knowledge, ...]] = {
    "draws not told": ("batch-size",),
    "draws told": ("batch-size", "draws"),
}
_SEARCHES = ("word-readout", "dager", "tag")
_NOISES = (1, 5, 10, 20)  # of an entry, in units of the root mean square of the output layer's gradient under weight 1
_HALF = 0.5


def measure(full: bool) -> list[Row]:
    """Return the rows."""
    rows: list[Row] = []
    for size in (1, 4):
        world = _world(size)
        for told, knows in _TOLD.items():
            seen = list(_observed(world, 40 if full else 20, knows))
            rows += _read(seen, f"{told}, batch {size}")
            _refusals(seen[0][0], f"{told}, batch {size}")
    return [*rows, *_sharpened(_world(4), 80 if full else 40)]


def _world(size: int) -> World:
    scenario = {
        "title": "benchmark",
        "seed": 5,
        "task": "masked-diffusion",
        "data": {"name": "lee-news", "length": 16},
        "model": {"name": "tiny-llada"},
        "federation": {"clients": 80, "batch_size": size},
    }
    return shared(parse(scenario, "benchmark").model_dump_json())


def _observed(world: World, victims: int, knows: Sequence[Knowledge]) -> Iterator[tuple[Observation, Truth]]:
    sent = world.models.first_weights
    for client in range(victims):
        update, truth = local_training(world, sent, 1, client)
        yield observe(Victim(world, WireEntry(1, client, sent, update), truth), knows), truth


def _read(seen: Sequence[tuple[Observation, Truth]], setting: str) -> list[Row]:
    figures: dict[str, list[float]] = {}
    for observation, truth in seen:
        visible, masked = _tokens(truth)
        words = words_of(observation)
        assert words.read is not None
        assert words.following is not None
        for name, found, wanted in (("visible", words.read, visible), ("masked", words.following, masked)):
            figures.setdefault(f"{name} words found", []).append(_share(wanted, found))
            figures.setdefault(f"found words that are {name}", []).append(_share(found, wanted))
        figures.setdefault("visible tokens found at their place in the first span", []).append(
            _placed(observation, truth)
        )
    return [with_interval(name, setting, [own for own in values if own >= 0], "") for name, values in figures.items()]


def _tokens(truth: Truth) -> tuple[Tensor, Tensor]:
    """Return the different visible tokens of a batch, and the different masked ones."""
    inputs, masked = _trained(truth)
    return inputs[~masked].unique(), inputs[masked].unique()


def _trained(truth: Truth) -> tuple[Tensor, Tensor]:
    """Return tokens and masked places of the sentences with a masked place: others have no gradient."""
    inputs, masked = truth.private[0].inputs, truth.draws[0]["task.masked"]
    return inputs[masked.any(1)], masked[masked.any(1)]


def _share(own: Tensor, among: Tensor) -> float:
    """Return the share of tokens that are among others; -1 where there are none."""
    return float(torch.isin(own, among).double().mean()) if len(own) else -1.0


def _placed(observation: Observation, truth: Truth) -> float:
    inputs, masked = _trained(truth)
    if masked.all():
        return -1.0
    try:
        tokens = Dager(DagerConfig())._reading(observation, DagerConfig().tolerance).tokens(observation.spec)
    except NothingFound:
        return 0.0
    found = torch.stack([torch.isin(inputs[:, place], here) for place, here in enumerate(tokens)], 1)
    return float(found[~masked].double().mean())


def _refusals(observation: Observation, setting: str) -> None:
    for name in _SEARCHES:
        method = registry.get("attack", name)
        try:
            found = method.make(method.config())(observation, seeding.generator(0, f"benchmark {name}"))
            print(f"{name}, {setting}: {len(found.inputs)} rows, {found.stopped}", file=sys.stderr)
        except NotApplicable as reason:
            print(f"{name}, {setting}: refused: {reason}", file=sys.stderr)


def _sharpened(world: World, victims: int) -> list[Row]:
    shares: dict[tuple[int, str, str], list[float]] = {}
    for client in range(victims):
        _, truth = local_training(world, world.models.first_weights, 1, client)
        draws = dict(truth.draws[0])
        weighted = _output(world, truth, draws)
        flat = _output(world, truth, {**draws, "task.rate": torch.ones_like(draws["task.rate"])})
        noise = torch.randn(flat.shape, generator=seeding.generator(client, "noise")) * flat.square().mean().sqrt()
        for size in _NOISES:
            for weight, own in (("1 / p", weighted), ("1", flat)):
                found = outstanding_rows(own + size * noise)
                for side, share in _by_rate(truth, found):
                    shares.setdefault((size, side, weight), []).append(share)
    return [
        with_interval("masked tokens that stand out", f"noise {size}, rate {side}, weight {weight}", values, "")
        for (size, side, weight), values in sorted(shares.items())
    ]


def _by_rate(truth: Truth, found: Tensor) -> Iterator[tuple[str, float]]:
    """Yield whether each sentence's rate is above a half, and the share of its masked tokens that were found."""
    draws = truth.draws[0]
    for inputs, rate, masked in zip(
        truth.private[0].inputs, draws["task.rate"].tolist(), draws["task.masked"], strict=True
    ):
        if masked.any():
            yield "below a half" if rate < _HALF else "above a half", _share(inputs[masked], found)


def _output(world: World, truth: Truth, draws: dict[str, Tensor]) -> Tensor:
    """Return the gradient of the output layer at a batch with these draws."""
    model, task = world.models.new(), world.task
    model.load_state_dict(dict(world.models.first_weights))
    outputs, targets = task.answer(model, truth.private[0], draws)
    weight = model.get_submodule("lm_head").get_parameter("weight")
    return gradient_of(task.losses(outputs, targets).mean(), {"lm_head": weight})["lm_head"].detach()


if __name__ == "__main__":
    main(measure, __doc__ or "")
