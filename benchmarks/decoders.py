"""Every decoder beside greedy, on SmolLM2-135M: how much faster it writes, for how many passes, and how much worse.

Thirty reports of the Lee news give two prompts each: a beginning (`news`), and a beginning twice, broken off in
the second (`again`), which a model that copies goes on with. A decoder runs with its own settings for one processor;
``--decoder`` picks some of them, ``--set`` changes settings. Ratios are of processor time, prompt by prompt, passes
alternate; all on one thread. Without ``--full`` four prompts of each kind.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import argparse  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import torch  # noqa: E402

from benchmarks._passes import in_turn  # noqa: E402
from benchmarks._rows import Row, as_json, as_table, measured  # noqa: E402
from fedsim.core import checkpoints, registry, seeding  # noqa: E402
from fedsim.core.errors import FedsimError  # noqa: E402
from fedsim.core.hooks import Condition, Decoder  # noqa: E402
from fedsim.core.past import Past  # noqa: E402
from fedsim.core.shipped import news_file  # noqa: E402
from fedsim.core.types import Generated, Limits  # noqa: E402
from fedsim.data._text import read_text  # noqa: E402
from fedsim.generation import generate  # noqa: E402
from fedsim.generation.writer import Writer, load_writer  # noqa: E402
from fedsim.scenario.reading import read_settings  # noqa: E402

PROMPTS, LENGTH = 30, 32
SHORT = 4
GREEDY = "greedy"
EXACT_GAIN = ">= 1.3"  # what an exact decoder must gain on text that repeats


class Timed(NamedTuple):
    """A text, and seconds of processor time that it took."""

    text: Generated
    seconds: float


def prompts(writer: Writer, count: int) -> dict[str, list[list[int]]]:
    """Return prompts by kind, from the first reports that are long enough."""
    by_kind: dict[str, list[list[int]]] = {"news": [], "again": []}
    for report in read_text(news_file()).splitlines():
        tokens = writer.tokenizer.encode(report)
        if len(tokens) < 2 * LENGTH or len(by_kind["news"]) == count:
            continue
        by_kind["news"].append(tokens[:LENGTH])
        beginning = tokens[: LENGTH + LENGTH // 4]
        by_kind["again"].append([*beginning, *writer.tokenizer.encode("\n\n"), *beginning[: LENGTH // 4]])
    return by_kind


def decoders(names: Sequence[str], settings: Sequence[str]) -> dict[str, Decoder[Any, Any]]:
    """Return decoders of the registry by name, with settings for one processor; ``name.key=value`` changes one."""
    built: dict[str, Decoder[Any, Any]] = {}
    for name, method in sorted(registry.methods("component").items()):
        if method.hook != "decoder" or (names and name not in (*names, GREEDY)):
            continue
        if "text" not in getattr(method.make, "modalities", ()):  # writes about images
            continue
        fields = method.config.model_fields.items()
        needed = {key: field.examples[0] for key, field in fields if field.is_required() and field.examples}
        config = method.config.model_validate(needed | dict(getattr(method.make, "fast", {})))
        chosen = [setting.removeprefix(f"{name}.") for setting in settings if setting.startswith(f"{name}.")]
        changed = read_settings(method, chosen).model_dump(exclude_unset=True) if chosen else {}
        built[name] = method.make(config.model_validate(config.model_dump() | changed)).named(name)
    return built


def timed(writer: Writer, decoder: Decoder[Any, Any], prompt: Sequence[int], length: int = LENGTH) -> Timed:
    """Write behind a prompt."""
    limits = Limits(max_new_tokens=length, context=writer.context)
    begin = time.process_time()
    (text,) = generate(
        decoder, writer.model, Condition((tuple(prompt),)), limits, seeding.generators(0, "text", [(0,)])
    )
    return Timed(text, time.process_time() - begin)


def written_in_turn(
    ways: Sequence[tuple[Writer, Decoder[Any, Any]]], prompts: Sequence[Sequence[int]], length: int = LENGTH
) -> list[list[Timed]]:
    """Return what each model with its decoder writes behind each prompt, timed side by side."""
    return in_turn([lambda prompt, pair=way: timed(*pair, prompt, length) for way in ways], prompts)


def compare(
    writer: Writer, built: dict[str, Decoder[Any, Any]], kind: str, prompts_of_kind: list[list[int]]
) -> list[Row]:
    """Time every decoder on every prompt of a kind; each prompt begins with another one."""
    names, seen, broken = list(built), {name: list[Timed]() for name in built}, dict[str, str]()
    for number, prompt in enumerate(prompts_of_kind):
        for turn in range(len(names)):
            name = names[(number + turn) % len(names)]
            if name in broken:
                continue
            try:
                seen[name].append(timed(writer, built[name], prompt))
            except FedsimError as error:
                broken[name] = str(error)
    rows: list[Row] = []
    for name in names:
        if name in broken:
            rows.append(
                Row(f"{name}: does not run here", f"{kind}; {broken[name]}", 0, "", 0, 0, 0, 0, "reported", True)
            )
        else:
            rows += describe(writer, built[name], kind, prompts_of_kind, seen[name], seen[GREEDY])
    return rows


def describe(
    writer: Writer,
    decoder: Decoder[Any, Any],
    kind: str,
    prompts_of_kind: list[list[int]],
    timed_texts: list[Timed],
    greedy: list[Timed],
) -> list[Row]:
    """Return what a decoder gains and loses beside greedy."""
    name, n = decoder.name, [len(each.text.tokens) for each in timed_texts]
    pace = [count / each.seconds for count, each in zip(n, timed_texts, strict=True)]
    base = [len(each.text.tokens) / each.seconds for each in greedy]
    must = EXACT_GAIN if decoder.exact and kind == "again" else ""
    gain = [over / under for over, under in zip(pace, base, strict=True)]
    passes = [count / writer.passes(each.text.trace) for count, each in zip(n, timed_texts, strict=True)]
    same = [float(each.text.tokens == other.text.tokens) for each, other in zip(timed_texts, greedy, strict=True)]
    loss = [likelihood(writer, prompt, each.text) for prompt, each in zip(prompts_of_kind, timed_texts, strict=True)]
    best = [likelihood(writer, prompt, each.text) for prompt, each in zip(prompts_of_kind, greedy, strict=True)]
    worse = [mine - theirs for mine, theirs in zip(loss, best, strict=True)]
    return [
        measured(f"{name} / greedy: tokens a second", kind, gain, "times", must),
        measured(f"{name}: tokens a second", kind, pace, "tokens", ""),
        measured(f"{name}: tokens a full forward pass", kind, passes, "tokens", ""),
        measured(f"{name}: texts that are greedy's", kind, same, "share", "", statistics.fmean(same)),
        measured(f"{name} - greedy: nats a token under the model", kind, worse, "nats", "", statistics.fmean(worse)),
    ]


def likelihood(writer: Writer, prompt: Sequence[int], text: Generated) -> float:
    """Return the mean of -log Pr of a text's tokens behind the prompt."""
    tokens = torch.tensor([[*prompt, *text.tokens]])
    with torch.no_grad():
        scores = writer.model(tokens)[0, len(prompt) - 1 : -1].log_softmax(-1)
    return float(-scores.gather(1, tokens[0, len(prompt) :, None]).mean())


def bare(writer: Writer, prompt: Sequence[int]) -> float:
    """Return the seconds of greedy decoding without the driver: no trace, no rules that end a text."""
    past, text = Past(), list(prompt)
    begin = time.process_time()
    with torch.no_grad():
        for _ in range(LENGTH):
            text.append(int(past.scores(writer.model, [text])[0].argmax()))
    return time.process_time() - begin


def package(prompt: Sequence[int], model: Any) -> float:
    """Return the seconds of the transformers package's own greedy decoding."""
    tokens = torch.tensor([list(prompt)])
    begin = time.process_time()
    model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        do_sample=False,
        max_new_tokens=LENGTH,
        min_new_tokens=LENGTH,
    )
    return time.process_time() - begin


def baselines(writer: Writer, greedy: Decoder[Any, Any], prompts_of_kind: list[list[int]]) -> list[Row]:
    """Compare greedy decoding with that of the transformers package, and with a loop without the driver."""
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - an extra

    with checkpoints.quiet():
        model = AutoModelForCausalLM.from_pretrained(checkpoints.smollm2(), dtype=torch.float32).eval()
    ways: list[Callable[[list[int]], float]] = [
        lambda prompt: timed(writer, greedy, prompt).seconds,
        lambda prompt: package(prompt, model),
        lambda prompt: bare(writer, prompt),
    ]
    driver, theirs, loop = in_turn(ways, prompts_of_kind)
    speed = [b / a for a, b in zip(driver, theirs, strict=True)]
    trace = [100 * (a / b - 1) for a, b in zip(driver, loop, strict=True)]
    return [
        measured("greedy / the package's generate: tokens a second", "news", speed, "times", ">= 1"),
        measured("the driver's share of greedy: trace, checks, rules", "news", trace, "%", "<= 3"),
    ]


def main() -> None:
    """Run the command line."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--full", action="store_true", help="all prompts")
    parser.add_argument("--prompts", type=int, help=f"of each kind; absent: {SHORT}, or {PROMPTS} with --full")
    parser.add_argument("--decoder", action="append", default=[], help="one of those to compare; absent: all")
    parser.add_argument("--set", action="append", default=[], metavar="NAME.KEY=VALUE", help="a decoder's setting")
    chosen = parser.parse_args()
    writer = load_writer(checkpoints.SMOLLM2)
    built = decoders(chosen.decoder, chosen.set)
    by_kind = prompts(writer, chosen.prompts or (PROMPTS if chosen.full else SHORT))
    timed(writer, built[GREEDY], by_kind["news"][0])  # the first one also reads the weights from the disk
    rows = baselines(writer, built[GREEDY], by_kind["news"])
    for kind, prompts_of_kind in by_kind.items():
        rows += compare(writer, built, kind, prompts_of_kind)
    print(as_json(rows) if chosen.json else as_table(rows))


if __name__ == "__main__":
    main()
