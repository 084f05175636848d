"""SkipDecode: what training under the schedule is worth, beside early termination with as many layers.

A small Llama learns news and goes on for as many steps with all layers (`all`), under the schedule (`skipdecode`), or
with the same numbers of layers from below (`early termination`), at half the layers on average. Losses are of the 32
tokens behind a prompt of 32, report by report; then each prompt is gone on with. Ratios are of processor time; all on
one thread. Without ``--full`` six prompts are gone on with.

Then ten clients with a tiny Llama of four blocks send the gradient of one sentence of 16 tokens, of which four are the
prompt. A place is told by a block if, behind the true beginning, the true token's input to its attention is nearest of
all tokens' to the span of its gradients.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import statistics  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from dataclasses import astuple  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks import _news_llama as news  # noqa: E402
from benchmarks._rows import Row, main, measured, with_interval  # noqa: E402
from benchmarks.adapters import outside, span, vocabulary_of  # noqa: E402
from benchmarks.decoders import likelihood, timed, written_in_turn  # noqa: E402
from benchmarks.early_exits import plain  # noqa: E402
from fedsim.components.decoder._schedule import LayerSchedule  # noqa: E402
from fedsim.components.decoder.greedy import Greedy, GreedyConfig  # noqa: E402
from fedsim.components.decoder.skipdecode import SkipDecode, SkipDecodeConfig  # noqa: E402
from fedsim.components.layer.skipdecode_training import SkipDecodeTraining, SkipDecodeTrainingConfig  # noqa: E402
from fedsim.core import registry, seeding  # noqa: E402
from fedsim.core.hooks import Decoder  # noqa: E402
from fedsim.core.losses import IGNORED, cross_entropy  # noqa: E402
from fedsim.core.past import Past  # noqa: E402
from fedsim.generation.writer import Writer, load_writer  # noqa: E402

PROMPT = EXPECTED = news.LENGTH // 2
SPEED_UP = 2.0
PROMPTS, SHORT = 30, 6
SENTENCE, GIVEN, VICTIMS = 16, 4, 10
BLOCKS = (1, 3)

Prepare = Callable[[nn.Module], nn.Module]


class _FromBelow(LayerSchedule):
    """The same numbers of layers, from below: what early termination runs."""

    def layers(self, number: int) -> tuple[int, ...]:
        return tuple(range(self.count(number)))


class _EarlyTermination(SkipDecodeTrainingConfig):
    def schedule(self, depth: int) -> LayerSchedule:
        return _FromBelow(*astuple(super().schedule(depth)))


def under(kind: type[SkipDecodeTrainingConfig]) -> Prepare:
    """Return what puts a schedule into a model."""
    component = SkipDecodeTraining(kind(speed_up=SPEED_UP, expected=EXPECTED, prompt=PROMPT))
    return lambda model: component.prepare(model, torch.Generator())


WAYS: dict[str, Prepare] = {
    "all": lambda model: model,
    "skipdecode": under(SkipDecodeTrainingConfig),
    "early termination": under(_EarlyTermination),
}


def trained(name: str) -> Path:
    """Return the checkpoint that went on in a way."""
    if name == "all":
        return plain()
    return news.went_on(name.replace(" ", "-"), WAYS[name], news.next_tokens)


@torch.no_grad()
def losses(model: nn.Module, texts: Tensor) -> list[float]:
    """Return each text's loss on the tokens behind its prompt, in training mode, where a schedule acts."""
    scores = model.train()(texts[:, :-1])[:, PROMPT - 1 :]
    each = nn.functional.cross_entropy(scores.flatten(0, 1), texts[:, PROMPT:].flatten(), reduction="none")
    return each.view(len(texts), -1).mean(1).tolist()


def compared() -> Iterator[Row]:
    """Yield the losses of each training, and what they are above those of all layers, report by report."""
    best: list[float] = []
    for learned in WAYS:
        for tested in dict.fromkeys(("all", learned)) if learned != "all" else WAYS:
            writer = load_writer(str(trained(learned)))
            of_way = losses(WAYS[tested](writer.model), news.windows(writer))
            best = best or of_way
            setting = f"trained with {learned}"
            yield with_interval(f"loss of {tested}", setting, of_way, "nats a token")
            above = [loss - least for loss, least in zip(of_way, best, strict=True)]
            yield with_interval(f"loss of {tested} - of all, trained with all", setting, above, "nats a token")


def measure(full: bool) -> list[Row]:
    """Return all rows."""
    rows = list(compared())
    writer = load_writer(str(trained("skipdecode")))
    prompts = news.windows(writer)[:, :PROMPT].tolist()[: PROMPTS if full else SHORT]
    rows += speeds(writer, load_writer(str(plain())), prompts)
    return [*rows, *leaks()]


def speeds(writer: Writer, judge: Writer, prompts: list[list[int]]) -> Iterator[Row]:
    """Yield what the decoder gains with the model that was trained for it, and how likely its texts are elsewhere."""
    skip_decode = SkipDecode(SkipDecodeConfig(speed_up=SPEED_UP, expected=EXPECTED))
    ways: list[tuple[Writer, Decoder[Any, Any]]] = [(judge, Greedy(GreedyConfig())), (writer, skip_decode)]
    timed(*ways[1], prompts[0], EXPECTED)
    greedy, timed_texts = written_in_turn(ways, prompts, EXPECTED)
    gain = [base.seconds / each.seconds for base, each in zip(greedy, timed_texts, strict=True)]
    passes = [len(each.text.tokens) / writer.passes(each.text.trace) for each in timed_texts]
    layers = [statistics.fmean(each.text.trace.series()["layers"][1:]) for each in timed_texts]
    worse = [
        likelihood(judge, prompt, each.text) - likelihood(judge, prompt, base.text)
        for prompt, each, base in zip(prompts, timed_texts, greedy, strict=True)
    ]
    yield measured("skipdecode / greedy of the plain model: tokens a second", "", gain, "times", "")
    yield measured("skipdecode: tokens a full forward pass, the prompt's among them", "", passes, "tokens", "")
    yield measured("skipdecode: layers on a written token, of 12", "", layers, "layers", "")
    yield with_interval("skipdecode - greedy: nats a token under the plain model", "", worse, "nats")


def leaks() -> Iterator[Row]:
    """Yield what the attentions of the second block and of the last one tell, place by place."""
    method, source = registry.get("model", "tiny-llama"), registry.get("dataset", "lee-news")
    data = source.make(source.config.model_validate({"length": SENTENCE}))
    whole = [number for number in range(len(data.train)) if (data.train.labels[number] != IGNORED).all()][:VICTIMS]
    config = SkipDecodeTrainingConfig(prompt=GIVEN, expected=SENTENCE - GIVEN)
    for label, schedule in (("all layers", None), ("skipdecode", config.schedule(4))):
        with seeding.isolate_randomness(0):
            model = method.make(method.config.model_validate({"blocks": 4}), data.spec)
            if schedule is not None:
                model = SkipDecodeTraining(config).prepare(model, torch.Generator())
            shares_of_texts = [
                _told_shares(model, data.train.inputs[number], data.train.labels[number], schedule) for number in whole
            ]
        for block in BLOCKS:
            for part, places in (("prompt", range(GIVEN)), ("rest", range(GIVEN, SENTENCE))):
                shares = [statistics.fmean(of_text[block][place] for place in places) for of_text in shares_of_texts]
                yield with_interval(f"told by block {block}, of the {part}", label, shares, "share")


def _told_shares(
    model: nn.Module, tokens: Tensor, labels: Tensor, schedule: LayerSchedule | None
) -> dict[int, list[float]]:
    """Return of each place whether the attentions of some blocks tell it."""
    loss, spaces = cross_entropy(model.train()(tokens[None]), labels[None]), dict[int, Tensor]()
    for block in BLOCKS:
        weights = [model.get_parameter(f"layers.{block}.self_attn.{letter}_proj.weight") for letter in "qkv"]
        spaces[block] = span(*torch.autograd.grad(loss, weights, retain_graph=True))
    flags: dict[int, list[float]] = {block: [] for block in BLOCKS}
    for place, read in enumerate(_read(model.eval(), tokens.tolist(), schedule)):
        for block, inputs in read.items():
            flags[block].append(float(outside(inputs, spaces[block]).argmin() == tokens[place]))
    return flags


@torch.no_grad()
def _read(model: nn.Module, tokens: list[int], schedule: LayerSchedule | None) -> Iterator[dict[int, Tensor]]:
    """Yield for each place what the attentions of some blocks read there of every token, behind the true beginning."""
    past, every = Past(), vocabulary_of(model).tolist()
    for place in range(len(tokens)):
        layers = tuple(range(4))
        if schedule is not None and place >= GIVEN:
            layers = schedule.layers(place - GIVEN)
        left: dict[int, Tensor] = {}

        def note(number: int, hidden: Tensor, left: dict[int, Tensor] = left) -> None:
            left[number] = hidden[:, -1]

        rows = past.keep([0] * len(every)) if place else Past()
        rows.states(model, [(*tokens[:place], token) for token in every], layers=layers, seen=note)
        past.states(model, [tokens[: place + 1]], layers=layers)
        before = {block: left[max(layer for layer in layers if layer < block)] for block in BLOCKS}
        yield {
            block: model.get_submodule(f"layers.{block}.input_layernorm")(states) for block, states in before.items()
        }


if __name__ == "__main__":
    main(measure, __doc__ or "")
