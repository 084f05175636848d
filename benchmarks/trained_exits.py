"""What decoder `del` gains on SmolLM2-135M whose first layers learned to exit, on known text, and what it tells.

The first four layers learn beginnings of news reports with component `early-exits`, 200 steps of six texts, and the
other layers stay: text that a client trained on. Prompts are the first 16 tokens of these texts (`learned`), of other
reports (`new`), and of these told twice (`again`); 32 tokens are written. Beside `del`, with exits at layers 4 and 8,
stand greedy and the fixed choice of layer 4 and eight tokens; beside the trained model the one as it came. The control
of the side channel is greedy, whose packets are all alike. Trained layers are kept in the cache. Ratios are of
processor time, prompt by prompt, all on one thread. Without ``--full`` 8 of 30 prompts of each kind.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import statistics  # noqa: E402
import sys  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks._news_llama import next_tokens, reports  # noqa: E402
from benchmarks._rows import Row, main, measured, told_apart, with_interval  # noqa: E402
from benchmarks._small_language_model import choices  # noqa: E402
from benchmarks.decoders import EXACT_GAIN, Timed, written_in_turn  # noqa: E402
from fedsim.components.decoder.dynamic_exit import Del, DelConfig  # noqa: E402
from fedsim.components.decoder.greedy import Greedy, GreedyConfig  # noqa: E402
from fedsim.components.decoder.speculative import Speculative, SpeculativeConfig  # noqa: E402
from fedsim.components.loss.early_exits import EarlyExits, EarlyExitsConfig  # noqa: E402
from fedsim.core import checkpoints  # noqa: E402
from fedsim.core.blocks import blocks_of  # noqa: E402
from fedsim.core.hooks import Decoder  # noqa: E402
from fedsim.generation.writer import Writer, load_writer  # noqa: E402

EXIT, EXITS = 4, (4, 8)
SCORING = 5.0  # layers that scoring a token costs as much as; a short list would lack a tenth of these tokens
PROMPT, WRITTEN = 16, 32
TEXTS, BATCH, STEPS, RATE = 30, 6, 200, 1e-3
SHORT = 8
_FILE = "trained.pt"
_EVERY = 20  # steps between lines of progress


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
    learned = texts(writer)[0]
    own.train()
    for number, chosen in enumerate(choices(TEXTS, STEPS, 0, BATCH)):
        outputs, labels = own(learned[chosen, :-1]), learned[chosen, 1:]
        loss = component.objective(outputs, labels, 1)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if number % _EVERY == 0:
            said = [float((one.argmax(-1) == labels).double().mean()) for one in outputs.unbind(1)]
            shares = " and ".join(f"{share:.0%}" for share in said)
            print(
                f"step {number} of {STEPS}: exit and all layers say {shares} of the text", file=sys.stderr, flush=True
            )


def prompts(writer: Writer, count: int) -> dict[str, list[list[int]]]:
    """Return prompts by kind."""
    learned, new = (some[:count].tolist() for some in texts(writer))
    between = writer.tokenizer.encode("\n\n")
    return {
        "learned": [own[:PROMPT] for own in learned],
        "new": [own[:PROMPT] for own in new],
        "again": [[*own, *between, *own[: PROMPT // 2]] for own in new],
    }


WAYS: dict[str, Decoder[Any, Any]] = {
    "greedy": Greedy(GreedyConfig()),
    "del": Del(DelConfig(exits=EXITS, scoring=SCORING)),
    "fixed exit and length": Speculative(SpeculativeConfig(layers=EXIT, length=8)),
}


def measure(full: bool) -> list[Row]:
    """Return all rows."""
    rows, count = list[Row](), TEXTS if full else SHORT
    for name, writer in (("trained", trained()), ("as it came", load_writer(checkpoints.SMOLLM2))):
        with torch.no_grad():
            losses = [float(next_tokens(writer.model, own[None])) for own in texts(writer)[1][:count]]
        rows.append(with_interval("all layers: loss on new reports", name, losses, "nats a token"))
        rows += compare(name, writer, count if name == "trained" else SHORT)
    return rows


def compare(name: str, writer: Writer, count: int) -> Iterator[Row]:
    """Yield what decoders gain on each kind of prompt, and how well their packets tell learned ones from new ones."""
    paces: dict[str, dict[str, list[float]]] = {way: {} for way in WAYS}
    for kind, asked in prompts(writer, count).items():
        found = dict(zip(WAYS, written_in_turn([(writer, own) for own in WAYS.values()], asked, WRITTEN), strict=True))
        for way, own in found.items():
            paces[way][kind] = [statistics.fmean(each.text.trace.tokens) for each in own]
            if way != "greedy":
                yield from described(f"{name}, {kind}", way, own, found["greedy"], paces[way][kind])
    for way, own in paces.items():
        yield told_apart(f"{way}: learned or new, by tokens a round", name, own["learned"], own["new"])


def described(setting: str, way: str, own: list[Timed], greedy: list[Timed], pace: Sequence[float]) -> Iterator[Row]:
    """Yield what one decoder gains beside greedy, and which exits `del` drafts by."""
    gain = [base.seconds / each.seconds for base, each in zip(greedy, own, strict=True)]
    same = [float(each.text.tokens == base.text.tokens) for each, base in zip(own, greedy, strict=True)]
    must = EXACT_GAIN if way == "del" and setting == "trained, learned" else ""
    yield measured(f"{way} / greedy: tokens a second", setting, gain, "times", must)
    yield with_interval(f"{way}: tokens a round", setting, pace, "tokens")
    yield measured(f"{way}: texts that are greedy's", setting, same, "share", "", statistics.fmean(same))
    for layers in EXITS if way == "del" else ():
        shares = [drafting(each, layers) for each in own]
        yield with_interval(f"del: rounds that draft by exit {layers}", setting, shares, "share")


def drafting(own: Timed, layers: int) -> float:
    """Return the share of a text's rounds that draft by an exit."""
    series = own.text.trace.series()
    rounds = list(zip(series["exit"], series["proposed"], strict=True))
    return sum(exit_ == layers and proposed > 0 for exit_, proposed in rounds) / len(rounds)


if __name__ == "__main__":
    main(measure, __doc__ or "")
