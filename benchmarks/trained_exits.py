"""What decoder `del` gains on SmolLM2-135M whose first layers learned to exit, on known text, and what it tells.

The first four layers learn beginnings of thirty news reports in 150 steps of six texts, and the other layers stay: text
that a client trained on. Every third step has the whole loss of component `early-exits`, the others that of the exit
alone, which costs a quarter. Prompts are the first 16 tokens of these texts (`learned`) and of other reports (`new`);
32 tokens are written. `del` may leave at layers 4 and 8, and stands beside greedy. Its packets tell learned beginnings
from new ones, area under the ROC curve; those of greedy are all alike, the control. Trained layers are kept in the
cache. Ratios are of processor time, prompt by prompt, all on one thread. Without ``--full`` 8 prompts of each
kind; with it 30 learned and 15 new ones.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import statistics  # noqa: E402
import sys  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, cast  # noqa: E402

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks._news_llama import next_tokens, reports  # noqa: E402
from benchmarks._rows import Row, main, measured, told_apart, with_interval  # noqa: E402
from benchmarks._small_language_model import choices  # noqa: E402
from benchmarks.decoders import EXACT_GAIN, Timed, written_in_turn  # noqa: E402
from fedsim.components.decoder.dynamic_exit import Del, DelConfig  # noqa: E402
from fedsim.components.decoder.greedy import Greedy, GreedyConfig  # noqa: E402
from fedsim.components.loss.early_exits import EarlyExits, EarlyExitsConfig  # noqa: E402
from fedsim.core import checkpoints  # noqa: E402
from fedsim.core.blocks import blocks_of  # noqa: E402
from fedsim.generation.writer import Writer, load_writer  # noqa: E402

EXIT, EXITS = 4, (4, 8)
SCORING = 5.0  # layers that scoring a token costs as much as; a short list would lack a tenth of these tokens
PROMPT, WRITTEN = 16, 32
TEXTS, BATCH, STEPS, RATE = 30, 6, 150, 1e-3
WHOLE = 3  # every such step has the loss of all layers too
SHORT, OTHERS = 8, 15  # prompts of each kind, and of new reports in the long version
_FILE = "trained.pt"
_EVERY = 15  # steps between lines of progress


def texts(writer: Writer) -> tuple[Tensor, Tensor]:
    """Return the beginnings that are learned, and others, each (TEXTS, PROMPT + WRITTEN)."""
    long = [[writer.tokenizer.encode(own)[: PROMPT + WRITTEN] for own in some] for some in reports()]
    whole = [[own for own in some if len(own) == PROMPT + WRITTEN][:TEXTS] for some in long]
    return torch.tensor(whole[0]), torch.tensor(whole[1])


def trained() -> Writer:
    """Return SmolLM2 with first layers that learned to exit, from the cache if they did before."""
    writer = load_writer(checkpoints.SMOLLM2)
    layers = nn.ModuleList(blocks_of(writer.model, "early-exits")[:EXIT])

    def make(folder: Path) -> None:
        _train(writer, layers)
        torch.save(layers.state_dict(), folder / _FILE)

    folder = checkpoints.make_once(f"smollm2-exit-{EXIT}-{STEPS}x{BATCH}", make, takes="ten minutes")
    layers.load_state_dict(torch.load(folder / _FILE, weights_only=True))
    writer.model.eval()
    return writer


def _train(writer: Writer, layers: nn.ModuleList) -> None:
    component = EarlyExits(EarlyExitsConfig(exits=(EXIT,)))
    own = component.prepare(writer.model.requires_grad_(False), torch.Generator())
    parameters = list(layers.requires_grad_(True).parameters())
    optimizer = torch.optim.AdamW(parameters, RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    learned, inner = texts(writer)[0], cast("Any", writer.model).own
    depth = inner.config.num_hidden_layers
    own.train()
    for number, chosen in enumerate(choices(TEXTS, STEPS, 0, BATCH)):
        inputs, labels = learned[chosen, :-1], learned[chosen, 1:]
        is_whole = number % WHOLE == 0
        inner.config.num_hidden_layers = depth if is_whole else EXIT
        outputs = own(inputs) if is_whole else writer.model(inputs)
        loss = component.objective(outputs, labels, 1)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if number % _EVERY == 0:
            said = [f"{float((one.argmax(-1) == labels).double().mean()):.0%}" for one in outputs.unbind(1)]
            print(f"step {number} of {STEPS}: exit and all layers say {said}", file=sys.stderr, flush=True)
    inner.config.num_hidden_layers = depth


def measure(full: bool) -> list[Row]:
    """Return all rows."""
    count, writer = TEXTS if full else SHORT, trained()
    learned, new = texts(writer)
    rows = list[Row]()
    for name, own in (("trained", writer), ("as it came", load_writer(checkpoints.SMOLLM2))):
        with torch.no_grad():
            losses = [float(next_tokens(own.model, each[None])) for each in new]
        rows.append(with_interval("all layers: loss on new reports", name, losses, "nats a token"))
    return rows + list(
        compare(writer, {"learned": learned[:count, :PROMPT], "new": new[: min(count, OTHERS), :PROMPT]})
    )


def compare(writer: Writer, asked: dict[str, Tensor]) -> Iterator[Row]:
    """Yield what `del` gains on each kind of prompt, and how well packets tell learned ones from new ones."""
    ways = [(writer, Greedy(GreedyConfig())), (writer, Del(DelConfig(exits=EXITS, scoring=SCORING)))]
    paces = list[list[float]]()
    for kind, own in asked.items():
        greedy, found = written_in_turn(ways, own.tolist(), WRITTEN)
        paces.append([statistics.fmean(each.text.trace.tokens) for each in found])
        yield from described(kind, found, greedy, paces[-1])
    yield told_apart("learned or new, by tokens a round", "del", *paces)


def described(kind: str, own: Sequence[Timed], greedy: Sequence[Timed], pace: Sequence[float]) -> Iterator[Row]:
    """Yield what `del` gains beside greedy, and which exits it drafts by."""
    gain = [base.seconds / each.seconds for base, each in zip(greedy, own, strict=True)]
    same = [float(each.text.tokens == base.text.tokens) for each, base in zip(own, greedy, strict=True)]
    yield measured("del / greedy: tokens a second", kind, gain, "times", EXACT_GAIN if kind == "learned" else "")
    yield with_interval("del: tokens a round", kind, pace, "tokens")
    yield measured("del: texts that are greedy's", kind, same, "share", "", statistics.fmean(same))
    for layers in EXITS:
        yield with_interval(
            f"del: rounds that draft by exit {layers}", kind, [drafting(each, layers) for each in own], "share"
        )


def drafting(own: Timed, layers: int) -> float:
    """Return the share of a text's rounds that draft by an exit."""
    series = own.text.trace.series()
    rounds = list(zip(series["exit"], series["proposed"], strict=True))
    return sum(exit_ == layers and proposed > 0 for exit_, proposed in rounds) / len(rounds)


if __name__ == "__main__":
    main(measure, __doc__ or "")
