"""What a draft must be worth on one processor, and what drafts of SmolLM2-135M are worth: its exits, and a small model.

First the parts, each as a share of a pass over one token, timed side by side: a layer, the output layer over all tokens
and over a short list, the small draft model, and passes over several tokens. Then how often each drafter says what the
model says, on its greedy text behind the prompts of `benchmarks.decoders`: news, and news told twice. From these
follows what a drafter can gain at most, at the best length of a draft; and from the parts alone how often it would have
to agree. In the end decoders with these drafters beside greedy. The small draft model has four of the thirty layers,
and learned to copy other reports; it is made once, in minutes on one core. Without ``--full``
six prompts each; with it twelve of news, and thirty of news told twice.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator, Sequence  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks._passes import in_turn  # noqa: E402
from benchmarks._rows import Row, main, measured, with_interval  # noqa: E402
from benchmarks._small_draft import small_draft  # noqa: E402
from benchmarks.decoders import EXACT_GAIN, PROMPTS, Timed, prompts, written_in_turn  # noqa: E402
from fedsim.components.decoder._shortlist import score_drafts  # noqa: E402
from fedsim.components.decoder.dynamic_exit import Del, DelConfig  # noqa: E402
from fedsim.components.decoder.greedy import Greedy, GreedyConfig  # noqa: E402
from fedsim.components.decoder.speculative import Speculative, SpeculativeConfig  # noqa: E402
from fedsim.core import checkpoints  # noqa: E402
from fedsim.core.hooks import Decoder  # noqa: E402
from fedsim.core.past import Draft, LayerStack, Past, stack_of  # noqa: E402
from fedsim.generation.writer import Writer, load_writer  # noqa: E402

SHORT, NEWS = 6, 12  # prompts of each kind, and of news in the long version: nothing is gained there
EXITS = (4, 10, 18, 20, 24, 28)
LONGEST = 8
FIRST = 4096  # tokens of the short list
PARTS = ((1, 17), (18, 25), (26, 30))  # layers
SURE = 0.4  # probability below which a draft ends
TIMES = 20
WANTED = 1.3
_DRAFT = "small draft model"


def measure(full: bool) -> list[Row]:
    """Return all rows."""
    writer, draft = load_writer(checkpoints.SMOLLM2), load_writer(str(small_draft()))
    by_kind = prompts(writer, PROMPTS if full else SHORT)
    by_kind["news"] = by_kind["news"][:NEWS]
    parts = timed_parts(writer, draft, by_kind["news"][0])
    rows = [measured(name, "a pass over one token is 1", part, "passes", "") for name, part in parts.items()]
    cost = {name: statistics.median(part) for name, part in parts.items()}
    drafting = {f"exit {depth}": depth * cost["a layer"] + cost[f"output layer, {FIRST:,} tokens"] for depth in EXITS}
    drafting[_DRAFT] = cost[_DRAFT]
    for name, price in drafting.items():
        need = needed(price, cost)
        words = "no agreement is enough" if need is None else f"drafts of {need[1]}"
        share = 1.0 if need is None else need[0]
        rows.append(measured(f"{name}: agreement needed for {WANTED} times greedy", words, [share], "share", ""))
    looks = [copying(writer, prompt) for prompt in by_kind["news"]]
    for first, last in PARTS:
        shares = [max(look[first - 1 : last]) for look in looks]
        name = "attention to what stood behind the earlier telling, the best head"
        rows.append(with_interval(name, f"layers {first} to {last}", shares, "share"))
    for kind, prompts_of_kind in by_kind.items():
        rows += compare(writer, draft, kind, prompts_of_kind, drafting, cost)
    return rows


@torch.no_grad()
def timed_parts(writer: Writer, draft: Writer, prompt: Sequence[int]) -> dict[str, list[float]]:
    """Return the processor time of each part behind a prompt, over that of a pass over one token beside it."""
    stack, past, small = known(writer), Past(), Past()
    text = [*prompt, *prompt[: LONGEST + 1]]
    end = len(prompt)
    hidden = past.states(writer.model, [text[:end]])[0][0, -1:]

    def layers(count: int) -> None:
        past.states(writer.model, [text[: end + 1]], layers=range(count))

    def passing(count: int) -> Callable[[], object]:
        drafted = Draft.line(text[end + 1 : end + count])
        return lambda: past.scores(writer.model, [text[: end + 1]], [drafted])

    def drafting() -> None:
        states = small.states(draft.model, [text[: end + 1]])[0][0, -1:]
        score_drafts(known(draft), states, text[:end], FIRST)

    ways: dict[str, Callable[[], object]] = {
        "a pass over one token": passing(1),
        "10 layers": lambda: layers(10),
        "20 layers": lambda: layers(20),
        "output layer": lambda: stack.score(hidden),
        f"output layer, {FIRST:,} tokens": lambda: score_drafts(stack, hidden, text[:end], FIRST),
        _DRAFT: drafting,
        **{f"a pass over {1 + count} tokens": passing(1 + count) for count in range(1, LONGEST + 1)},
    }
    seconds = in_turn([lambda _, run=way: _seconds(run) for way in ways.values()], range(TIMES + 2))
    whole = dict(zip(ways, (second[2:] for second in seconds), strict=True))
    base = whole.pop("a pass over one token")
    ratios = {name: [a / b for a, b in zip(times, base, strict=True)] for name, times in whole.items()}
    ten, twenty = ratios.pop("10 layers"), ratios.pop("20 layers")
    return {"a layer": [(b - a) / 10 for a, b in zip(ten, twenty, strict=True)], **ratios}


def _seconds(way: Callable[[], object]) -> float:
    begin = time.process_time()
    way()
    return time.process_time() - begin


def known(writer: Writer) -> LayerStack:
    """Return the layers of a model that has some."""
    stack = stack_of(writer.model)
    assert stack is not None
    return stack


def gain(agreement: float, price: float, cost: dict[str, float]) -> tuple[float, int]:
    """Return how many times as fast as greedy a drafter is at most, and the length of its drafts then.

    Args:
        agreement: how often it says what the model says.
        price: of a drafted token.
        cost: of the parts, as `timed_parts` names them.
    """
    return max((_gain(agreement, price, cost, length), length) for length in range(LONGEST + 1))


def _gain(agreement: float, price: float, cost: dict[str, float], length: int) -> float:
    tokens = sum(agreement**power for power in range(length + 1))
    reading = cost[f"a pass over {1 + length} tokens"] if length else 1.0
    return tokens / (reading + length * price)


def needed(price: float, cost: dict[str, float]) -> tuple[float, int] | None:
    """Return the least agreement with which a drafter reaches what is wanted, in hundredths; None of none."""
    for hundredths in range(101):
        best = gain(hundredths / 100, price, cost)
        if best[0] >= WANTED:
            return hundredths / 100, best[1]
    return None


def compare(
    writer: Writer,
    draft: Writer,
    kind: str,
    prompts_of_kind: Sequence[Sequence[int]],
    drafting: dict[str, float],
    cost: dict[str, float],
) -> Iterator[Row]:
    """Yield how often drafters agree, what follows from that, and what decoders gain with them."""
    ways: dict[str, Decoder[Any, Any]] = {
        "greedy": Greedy(GreedyConfig()),
        f"speculative, {_DRAFT}": Speculative(
            SpeculativeConfig(draft=str(small_draft()), length=LONGEST, shortlist=FIRST, sure=SURE)
        ),
        "del": Del(DelConfig(exits=(10, 20, 26), shortlist=FIRST, scoring=1.0)),
    }
    timed_texts = written_in_turn([(writer, way) for way in ways.values()], prompts_of_kind)
    agreed = [
        agreements(writer, draft, prompt, each.text.tokens)
        for prompt, each in zip(prompts_of_kind, timed_texts[0], strict=True)
    ]
    for name, price in drafting.items():
        shares = [shares_of_prompt[name] for shares_of_prompt in agreed]
        most, length = gain(statistics.fmean(shares), price, cost)
        yield with_interval(f"{name}: says what the model says", kind, shares, "share")
        yield measured(f"{name}: gain at most, by the parts", f"{kind}; drafts of {length}", [most], "times", "")
    for name, of_way in list(zip(ways, timed_texts, strict=True))[1:]:
        yield from _gained(name, kind, of_way, timed_texts[0])


def _gained(name: str, kind: str, timed_texts: Sequence[Timed], greedy: Sequence[Timed]) -> Iterator[Row]:
    speed = [base.seconds / each.seconds for base, each in zip(greedy, timed_texts, strict=True)]
    tokens = [len(each.text.tokens) / len(each.text.trace.tokens) for each in timed_texts]
    same = [float(each.text.tokens == base.text.tokens) for each, base in zip(timed_texts, greedy, strict=True)]
    must = EXACT_GAIN if kind == "again" else ""
    yield measured(f"{name} / greedy: tokens a second", kind, speed, "times", must)
    yield with_interval(f"{name}: tokens a round", kind, tokens, "tokens")
    yield measured(f"{name}: texts that are greedy's", kind, same, "share", "", statistics.fmean(same))


@torch.no_grad()
def copying(writer: Writer, text: Sequence[int]) -> list[float]:
    """Return of each layer how much of its attention the best head gives, in a second telling, to the next token."""
    inner: Any = writer.model
    length = len(text)
    repeated = torch.tensor([[*text, *text]])
    places = torch.arange(length + 1, 2 * length)
    attentions = inner.own(input_ids=repeated, use_cache=False, output_attentions=True).attentions
    return [float(layer[0][:, places, places - length + 1].mean(-1).max()) for layer in attentions]


@torch.no_grad()
def agreements(writer: Writer, draft: Writer, prompt: Sequence[int], text: Sequence[int]) -> dict[str, float]:
    """Return how often each drafter says the next token of a text behind a prompt."""
    exits = exits_agree(writer, EXITS, FIRST, prompt, text)
    last = Past().states(draft.model, [[*prompt, *text[:-1]]])[0][0]
    of_draft = _agreement(draft, last[len(prompt) - 1 :], FIRST, prompt, text)
    return {f"exit {layers}": share for layers, share in exits.items()} | {_DRAFT: of_draft}


@torch.no_grad()
def exits_agree(
    writer: Writer, exits: Sequence[int], first: int, prompt: Sequence[int], text: Sequence[int]
) -> dict[int, float]:
    """Return how often each exit, with a short list, says the next token of a text behind a prompt."""
    states = dict[int, Tensor]()
    tokens = [[*prompt, *text[:-1]]]
    Past().states(writer.model, tokens, seen=lambda number, hidden: states.__setitem__(number + 1, hidden[0]))
    return {depth: _agreement(writer, states[depth][len(prompt) - 1 :], first, prompt, text) for depth in exits}


def _agreement(writer: Writer, hidden: Tensor, first: int, prompt: Sequence[int], text: Sequence[int]) -> float:
    said = score_drafts(known(writer), hidden, prompt, first).argmax(-1)
    return float((said == torch.tensor(text)).double().mean())


if __name__ == "__main__":
    main(measure, __doc__ or "")
