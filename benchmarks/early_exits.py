"""What training with early exits gives decoder `del`: accepted tokens and tokens a second, before and after.

A small Llama learns news and goes on for as many steps without exits (`plain`) and with them (`exits`). Prompts are the
beginnings of reports that it learned (`learned`), of others (`new`), and beginnings twice, broken off in the second
(`again`). Fixed choices of exit and length stand beside `del`: decoder `speculative` with each of them. Ratios are of
processor time, prompt by prompt; all on one thread. Without ``--full`` six prompts of each kind.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import statistics  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402

from benchmarks import _news_llama as news  # noqa: E402
from benchmarks._rows import Row, main, measured, with_interval  # noqa: E402
from benchmarks.decoders import LENGTH, Timed, timed, written_in_turn  # noqa: E402
from benchmarks.drafts import exits_agree  # noqa: E402
from fedsim.components.decoder.dynamic_exit import Del, DelConfig  # noqa: E402
from fedsim.components.decoder.greedy import Greedy, GreedyConfig  # noqa: E402
from fedsim.components.decoder.speculative import Speculative, SpeculativeConfig  # noqa: E402
from fedsim.components.loss.early_exits import EarlyExits, EarlyExitsConfig  # noqa: E402
from fedsim.core.hooks import Decoder  # noqa: E402
from fedsim.generation.writer import Writer, load_writer  # noqa: E402

EXITS = (2, 4)
LENGTHS = (1, 2, 4, 8)
PROMPTS, SHORT = 30, 6
COPY = (24, 6)  # tokens of a beginning that is told twice, and of its second telling


def plain() -> Path:
    """Return the checkpoint that went on without a component."""
    return news.went_on("plain", lambda model: model, news.next_tokens)


def with_exits() -> Path:
    """Return the checkpoint that went on with early exits."""
    component = EarlyExits(EarlyExitsConfig(exits=EXITS))
    return news.went_on(
        "exits",
        lambda model: component.prepare(model, torch.Generator()),
        lambda model, texts: component.objective(model(texts[:, :-1]), texts[:, 1:], 1),
    )


def prompts(writer: Writer, count: int) -> dict[str, list[list[int]]]:
    """Return prompts by kind."""
    learned, new = ([writer.tokenizer.encode(report) for report in some[:count]] for some in news.reports())
    once, more = COPY
    return {
        "learned": [text[:LENGTH] for text in learned],
        "new": [text[:LENGTH] for text in new],
        "again": [[*text[:once], *text[:more]] for text in new],
    }


def measure(full: bool) -> list[Row]:
    """Return all rows."""
    count, rows = PROMPTS if full else SHORT, list[Row]()
    for name, folder in (("plain", plain()), ("exits", with_exits())):
        writer = load_writer(str(folder))
        texts = news.windows(writer)
        with torch.no_grad():
            losses = [float(news.next_tokens(writer.model, text[None])) for text in texts]
        rows.append(with_interval("all layers: loss on new reports", name, losses, "nats a token"))
        for kind, prompts_of_kind in prompts(writer, count).items():
            rows += compare(writer, f"{name}, {kind}", prompts_of_kind)
    return rows


def compare(writer: Writer, setting: str, prompts_of_kind: Sequence[Sequence[int]]) -> Iterator[Row]:
    """Yield what `del` gains on prompts, and what fixed choices would."""
    yield from gained(writer, Del(DelConfig(exits=EXITS)), setting, prompts_of_kind)
    fixed = {
        (layers, length): [_fixed(writer, layers, length, prompt) for prompt in prompts_of_kind]
        for layers in EXITS
        for length in LENGTHS
    }
    ranked = sorted(fixed, key=lambda candidate: statistics.fmean(fixed[candidate]))
    for label, pick in (("worst", ranked[0]), ("best", ranked[-1])):
        choice = f"{setting}; exit {pick[0]}, length {pick[1]}"
        yield with_interval(f"{label} fixed choice: tokens a full forward pass", choice, fixed[pick], "tokens")


def gained(
    writer: Writer, way: Del, setting: str, prompts_of_kind: Sequence[Sequence[int]], must: str = ""
) -> Iterator[Row]:
    """Yield what a `del` gains on prompts beside greedy decoding of the same model, and how often its exits agree.

    Args:
        writer: the model.
        way: the decoder.
        setting: for the rows.
        prompts_of_kind: prompts.
        must: what is asked of tokens a second, over greedy's; empty for nothing.
    """
    config, both = way.config, list[tuple[Writer, Decoder[Any, Any]]](((writer, Greedy(GreedyConfig())), (writer, way)))
    timed(*both[1], prompts_of_kind[0])
    greedy, timed_texts = written_in_turn(both, prompts_of_kind)
    gain = [base.seconds / each.seconds for base, each in zip(greedy, timed_texts, strict=True)]
    same = [float(each.text.tokens == base.text.tokens) for base, each in zip(greedy, timed_texts, strict=True)]
    series = [each.text.trace.series() for each in timed_texts]
    stands = [_stands(counts) for counts in series]
    texts = [each.text.tokens for each in greedy]
    agreed = [
        exits_agree(writer, config.exits, config.shortlist, *pair) for pair in zip(prompts_of_kind, texts, strict=True)
    ]
    yield measured("del / greedy: tokens a second", setting, gain, "times", must)
    yield with_interval(
        "del: tokens a round", setting, [statistics.fmean(each.text.trace.tokens) for each in timed_texts], "tokens"
    )
    yield with_interval("del: drafted tokens that stand", setting, stands, "share")
    yield with_interval(
        "del: tokens a full forward pass", setting, [_gain(writer, each) for each in timed_texts], "tokens"
    )
    for layers in config.exits:
        agree = [shares[layers] for shares in agreed]
        drafting = [_drafting(counts, layers) for counts in series]
        yield with_interval(f"exit {layers}: says what the model says", setting, agree, "share")
        yield with_interval(f"del: rounds that draft by exit {layers}", setting, drafting, "share")
    yield measured("del: texts that are greedy's", setting, same, "share", "", statistics.fmean(same))


def _stands(series: Any) -> float:
    """Return the share of drafted tokens that stand; of a text without drafts 0."""
    drafted = sum(series["proposed"])
    return sum(series["accepted"]) / drafted if drafted else 0.0


def _drafting(series: Any, layers: int) -> float:
    """Return the share of rounds that draft by an exit."""
    rounds = list(zip(series["exit"], series["proposed"], strict=True))
    return sum(exit_ == layers and proposed > 0 for exit_, proposed in rounds) / len(rounds)


def _gain(writer: Writer, timed_text: Timed) -> float:
    return len(timed_text.text.tokens) / writer.passes(timed_text.text.trace)


def _fixed(writer: Writer, layers: int, length: int, prompt: Sequence[int]) -> float:
    """Return the tokens a full pass of a fixed exit and length, whose drafts and checks run all their layers."""
    decoder = Speculative(SpeculativeConfig(layers=layers, length=length))
    return _gain(writer, timed(writer, decoder, prompt))


if __name__ == "__main__":
    main(measure, __doc__ or "")
