"""What one gradient of a masked diffusion model says of its client's text: words, whole texts, rates, and the weight.

A victim is a client's first gradient of `tiny-llada` at fresh weights on sentences of news of up to 16 tokens. Rows are
shares, means over victims; least and greatest are the ends of their 95 % interval, by bootstrap over victims. Counted
are sentences with a masked place, since others have no gradient. Visible words are those whose row in the embedding's
gradient is not zero, as `word-readout` reads them; masked words those whose row in the output layer's gradient stands
out. `masked-spans` reads sentences, and rates: one counts as read within a thousandth. `masked-matching` searches
texts, one or four at once, on a smaller model, with masked places and rate told, estimated, or among its unknowns; a
token counts at its place of the sentence to which a guess is assigned. Why `tag` and `dager` find nothing is said on
the error stream.

Does the weight 1 / p sharpen the leak? The same masked places of batches of four are weighted by 1 / p and by 1, under
the same noise: the share of a sentence's masked tokens that stand out, where its rate is below a half, and above.
Beside them the next tokens of a causal model of the same size. Units are sentences.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import statistics  # noqa: E402
import sys  # noqa: E402
from collections.abc import Iterator, Mapping, Sequence  # noqa: E402

import torch  # noqa: E402
from scipy.optimize import linear_sum_assignment  # noqa: E402
from torch import Tensor  # noqa: E402

from attacks.core.fired_rows import outstanding_rows  # noqa: E402
from benchmarks._rows import Row, main, with_interval  # noqa: E402
from fedsim.core import registry, seeding  # noqa: E402
from fedsim.core.errors import NotApplicable  # noqa: E402
from fedsim.core.gradients import gradient_of  # noqa: E402
from fedsim.core.types import Knowledge, Observation, Reconstruction, Truth, WireEntry  # noqa: E402
from fedsim.federation.client import local_training  # noqa: E402
from fedsim.scenario import parse  # noqa: E402
from fedsim.scenario.world import World, build  # noqa: E402
from fedsim.threat.observe import observe  # noqa: E402
from fedsim.threat.victim import Victim  # noqa: E402

_KNOWN: tuple[Knowledge, ...] = ("batch-size",)
_GRANTED: tuple[Knowledge, ...] = ("batch-size", "draws")
_SMALL = {"width": 64, "hidden": 64, "blocks": 2}
_WIDER = {"width": 128, "hidden": 128, "blocks": 2}  # spans hold fewer tokens than the width
_CAUSAL = {"name": "tiny-llama", "blocks": 4, "hidden": 344, "key_value_heads": 4}  # as `tiny-llada` has
_REFUSING = ("dager", "tag")
_NOISES = (1, 5, 10, 20)  # of an entry, in units of the root mean square of the output layer's gradient under weight 1
_HALF = 0.5
_SAME_RATE = 1e-3


def measure(full: bool) -> list[Row]:
    """Return the rows."""
    rows: list[Row] = []
    for size, victims in ((1, 20), (2, 10), (4, 20)):
        seen = list(_observed(_world(size), victims * (1 + full), _KNOWN))
        rows += [*_words(seen, f"batch {size}"), *_texts(seen, f"batch {size}")]
        _refusals(seen[0][0], f"batch {size}")
    rows += _searched(1, _SMALL, 20 if full else 8, 1000 if full else 200)
    rows += _searched(4, _WIDER, 40 if full else 16, 1000 if full else 300)
    rows += _sharpened(_world(4), 80 if full else 40)
    return [*rows, *_causal(80 if full else 40)]


def _world(size: int, **sizes: int) -> World:
    return _of(size, "masked-diffusion", {"name": "tiny-llada", **sizes})


def _of(size: int, task: str, model: Mapping[str, object]) -> World:
    scenario = {
        "title": "benchmark",
        "seed": 5,
        "task": task,
        "data": {"name": "lee-news", "length": 16},
        "model": model,
        "federation": {"clients": 80, "batch_size": size},
    }
    return build(parse(scenario, "benchmark"))


def _observed(world: World, victims: int, knows: Sequence[Knowledge]) -> Iterator[tuple[Observation, Truth]]:
    sent = world.models.first_weights
    for client in range(victims):
        update, truth = local_training(world, sent, 1, client)
        if not truth.draws[0]["task.masked"].any():
            continue  # it sends zeros
        yield observe(Victim(world, WireEntry(1, client, sent, update), truth), knows), truth


def _words(seen: Sequence[tuple[Observation, Truth]], setting: str) -> list[Row]:
    figures: dict[str, list[float]] = {}
    for observation, truth in seen:
        visible, masked = _tokens(truth)
        read = outstanding_rows(observation.update.tensors["embed_tokens.weight"][:-1])  # the last one is the mask's
        following = outstanding_rows(observation.update.tensors["lm_head.weight"])
        for name, words, wanted in (("visible", read, visible), ("masked", following, masked)):
            figures.setdefault(f"{name} words found", []).append(_share(wanted, words))
            figures.setdefault(f"found words that are {name}", []).append(_share(words, wanted))
    return [
        with_interval(name, setting, [share for share in values if share >= 0], "") for name, values in figures.items()
    ]


def _texts(seen: Sequence[tuple[Observation, Truth]], setting: str) -> list[Row]:
    """Return how many sentences and rates `masked-spans` reads."""
    exact: list[float] = []
    rates: list[float] = []
    for observation, truth in seen:
        guess = _attacked("masked-spans", observation)
        rows = truth.draws[0]["task.masked"].any(1).nonzero().flatten().tolist()
        outcomes = [_match_of(guess, truth, row) for row in rows]
        exact.append(statistics.fmean(number >= 0 for number, _ in outcomes))
        rates.append(statistics.fmean(is_right for _, is_right in outcomes))
    return [
        with_interval("sentences read exactly", f"{setting}, masked-spans", exact, ""),
        with_interval("rates read", f"{setting}, masked-spans", rates, ""),
    ]


def _match_of(reconstruction: Reconstruction, truth: Truth, row: int) -> tuple[int, bool]:
    """Return which guess is a true sentence, -1 for none, and whether its rate is right."""
    sentence, rate = truth.private[0].inputs[row].tolist(), float(truth.draws[0]["task.rate"][row])
    guesses = reconstruction.inputs.tolist()
    if sentence not in guesses:
        return -1, False
    # The attack reads 1 / (p n) and takes all places for the answer; where a sentence ends early, fewer are.
    answer = float((truth.private[0].labels[row] >= 0).double().mean())
    rate_of_guess = reconstruction.facts.get(f"masking rate of sentence {guesses.index(sentence) + 1}", 0.0)
    return guesses.index(sentence), abs(rate_of_guess / answer / rate - 1) < _SAME_RATE


def _searched(size: int, sizes: Mapping[str, int], victims: int, iterations: int) -> list[Row]:
    """Return what a search finds of texts where draws are told, estimated, or unknowns."""
    rows: list[Row] = []
    world = _world(size, **sizes)
    for how, knows, settings in (
        ("told", _GRANTED, {}),
        ("estimated", _KNOWN, {"draws": "estimated"}),
        ("not told", _KNOWN, {"draws": "searched"}),
    ):
        tokens: list[float] = []
        masked: list[float] = []
        for observation, truth in _observed(world, victims, knows):
            guess = _attacked("masked-matching", observation, max_iterations=iterations, **settings)
            right, hidden = _right(guess.inputs, truth)
            tokens.append(float(right.double().mean()))
            masked.append(float(right[hidden].double().mean()))
        setting = f"batch {size}, masked-matching, draws {how}"
        rows.append(with_interval("tokens at their place", setting, tokens, ""))
        rows.append(with_interval("masked tokens at their place", setting, masked, ""))
    return rows


def _right(guesses: Tensor, truth: Truth) -> tuple[Tensor, Tensor]:
    """Return which tokens are right of each sentence that has a gradient, and which are masked, (B, T).

    Each sentence gets a guess of its own, so that most tokens are right.
    """
    sentences, masked = _trained(truth)
    right = guesses[None] == sentences[:, None]  # (B, guesses, T)
    rows, chosen = linear_sum_assignment(right.sum(-1).numpy(), maximize=True)
    return right[rows, chosen], masked[rows]


def _attacked(name: str, observation: Observation, **settings: object) -> Reconstruction:
    method = registry.get("attack", name)
    attack = method.make(method.config.model_validate(settings))
    return attack(observation, seeding.generator(0, f"benchmark {name}"))


def _tokens(truth: Truth) -> tuple[Tensor, Tensor]:
    """Return the different visible tokens of a batch, and the different masked ones."""
    inputs, masked = _trained(truth)
    return inputs[~masked].unique(), inputs[masked].unique()


def _trained(truth: Truth) -> tuple[Tensor, Tensor]:
    """Return tokens and masked places of the sentences with a masked place: others have no gradient."""
    inputs, masked = truth.private[0].inputs, truth.draws[0]["task.masked"]
    return inputs[masked.any(1)], masked[masked.any(1)]


def _share(tokens: Tensor, among: Tensor) -> float:
    """Return the share of tokens that are among others; -1 where there are none."""
    return float(torch.isin(tokens, among).double().mean()) if len(tokens) else -1.0


def _refusals(observation: Observation, setting: str) -> None:
    for name in _REFUSING:
        try:
            guess = _attacked(name, observation)
            print(f"{name}, {setting}: {len(guess.inputs)} rows, {guess.stopped}", file=sys.stderr)
        except NotApplicable as reason:
            print(f"{name}, {setting}: refused: {reason}", file=sys.stderr)


def _sharpened(world: World, victims: int) -> list[Row]:
    shares: dict[tuple[int, str, str], list[float]] = {}
    for client in range(victims):
        _, truth = local_training(world, world.models.first_weights, 1, client)
        draws = dict(truth.draws[0])
        weighted = _output(world, truth, draws)
        flat = _output(world, truth, {**draws, "task.rate": torch.ones_like(draws["task.rate"])})
        noise = _noise(flat, client)
        for size in _NOISES:
            for weight, gradient in (("1 / p", weighted), ("1", flat)):
                words = outstanding_rows(gradient + size * noise)
                for side, share in _by_rate(truth, words):
                    shares.setdefault((size, side, weight), []).append(share)
    return [
        with_interval("masked tokens that stand out", f"noise {size}, rate {side}, weight {weight}", values, "")
        for (size, side, weight), values in sorted(shares.items())
    ]


def _causal(victims: int) -> list[Row]:
    """Return the same of the next tokens of a causal model of the same size."""
    world = _of(4, "next-token", _CAUSAL)
    shares: dict[int, list[float]] = {}
    for client in range(victims):
        update, truth = local_training(world, world.models.first_weights, 1, client)
        gradient = update.tensors["lm_head.weight"]
        noise = _noise(gradient, client)
        for size in _NOISES:
            words = outstanding_rows(gradient + size * noise)
            for labels in truth.private[0].labels:
                shares.setdefault(size, []).append(_share(labels[labels >= 0], words))
    return [
        with_interval("next tokens that stand out", f"noise {size}, causal model", values, "")
        for size, values in shares.items()
    ]


def _noise(gradient: Tensor, client: int) -> Tensor:
    """Return noise of the size of a gradient's entries."""
    noise = torch.randn(gradient.shape, generator=seeding.generator(client, "noise"))
    return noise * gradient.square().mean().sqrt()


def _by_rate(truth: Truth, tokens: Tensor) -> Iterator[tuple[str, float]]:
    """Yield whether each sentence's rate is above a half, and the share of its masked tokens that were found."""
    draws = truth.draws[0]
    for inputs, rate, masked in zip(
        truth.private[0].inputs, draws["task.rate"].tolist(), draws["task.masked"], strict=True
    ):
        if masked.any():
            yield "below a half" if rate < _HALF else "above a half", _share(inputs[masked], tokens)


def _output(world: World, truth: Truth, draws: dict[str, Tensor]) -> Tensor:
    """Return the gradient of the output layer at a batch with these draws."""
    model, task = world.models.new(), world.task
    model.load_state_dict(dict(world.models.first_weights))
    outputs, targets = task.answer(model, truth.private[0], draws)
    weight = model.get_submodule("lm_head").get_parameter("weight")
    return gradient_of(task.losses(outputs, targets).mean(), {"lm_head": weight})["lm_head"].detach()


if __name__ == "__main__":
    main(measure, __doc__ or "")
