"""What trees of ADED gain on SmolLM2-135M in its domain: a table of other news, and one that holds its own answers.

Beginnings of news reports are gone on with by 32 tokens, beside greedy decoding, with trees of 3 or 8 tokens. First the
table was counted on other reports (ten prompts). Then it was also counted on what the model wrote behind these
beginnings: requests that come again (thirty prompts). Tables learn from the text. Ratios are of processor time, prompt
by prompt, passes alternate; all on one thread. Without ``--full`` eight prompts each.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import statistics  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from benchmarks._news_llama import reports  # noqa: E402
from benchmarks._rows import Row, main, measured, with_interval  # noqa: E402
from benchmarks.decoders import EXACT_GAIN, LENGTH, PROMPTS, Timed, timed, written_in_turn  # noqa: E402
from fedsim.components.decoder.aded import Aded, AdedConfig, count_table, save_table  # noqa: E402
from fedsim.components.decoder.greedy import Greedy, GreedyConfig  # noqa: E402
from fedsim.core import checkpoints, seeding  # noqa: E402
from fedsim.core.hooks import Condition, Decoder  # noqa: E402
from fedsim.core.types import Limits  # noqa: E402
from fedsim.generation import generate  # noqa: E402
from fedsim.generation.writer import Writer, load_writer  # noqa: E402

NODES = (3, 8)
OTHERS, SHORT = 10, 8


def measure(full: bool) -> list[Row]:
    """Return all rows."""
    writer = load_writer(checkpoints.SMOLLM2)
    others, new = ([writer.tokenizer.encode(report) for report in some] for some in reports())
    prompts = [text[:LENGTH] for text in new if len(text) >= LENGTH][: PROMPTS if full else SHORT]
    with tempfile.TemporaryDirectory() as folder:
        plain = trees(Path(folder), others)
        timed(writer, plain[max(NODES)], prompts[0])  # the first one also reads weights and table from the disk
        rows = compared(writer, "a table of other reports", prompts[: OTHERS if full else SHORT], plain)
        known = trees(Path(folder), [*others, *answers(writer, prompts)])
        timed(writer, known[max(NODES)], prompts[0])
        return [*rows, *compared(writer, "its own answers too", prompts, known, EXACT_GAIN)]


def answers(writer: Writer, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return prompts with what greedy decoding writes behind them."""
    condition, limits = Condition(tuple(map(tuple, prompts))), Limits(max_new_tokens=LENGTH)
    sources = seeding.generators(0, "text", [(row,) for row in range(len(prompts))])
    written = generate(Greedy(GreedyConfig()), writer.model, condition, limits, sources)
    return [[*prompt, *text.tokens] for prompt, text in zip(prompts, written, strict=True)]


def trees(folder: Path, texts: Sequence[Sequence[int]]) -> dict[int, Decoder[Any, Any]]:
    """Return decoders by the size of their trees, with a table counted on texts."""
    path = folder / f"{len(texts)}.json"
    save_table(path, count_table(texts))
    return {nodes: Aded(AdedConfig(table=path, prompt=True, depth=nodes, paths=nodes, nodes=nodes)) for nodes in NODES}


def compared(
    writer: Writer, table: str, prompts: Sequence[Sequence[int]], built: dict[int, Decoder[Any, Any]], must: str = ""
) -> list[Row]:
    """Return what trees gain beside greedy."""
    greedy = Greedy(GreedyConfig())
    base, *of_trees = written_in_turn([(writer, decoder) for decoder in (greedy, *built.values())], prompts)
    sized = zip(built, of_trees, strict=True)
    return [
        row for nodes, timed_texts in sized for row in described(f"{table}; trees of {nodes}", timed_texts, base, must)
    ]


def described(setting: str, timed_texts: Sequence[Timed], base: Sequence[Timed], must: str) -> Iterator[Row]:
    """Yield pace, tokens a pass, and whether the text is greedy's."""
    pace = [slow.seconds / fast.seconds for slow, fast in zip(base, timed_texts, strict=True)]
    same = [float(a.text.tokens == b.text.tokens) for a, b in zip(timed_texts, base, strict=True)]
    yield measured("aded / greedy: tokens a second", setting, pace, "times", must)
    yield with_interval(
        "aded: tokens a pass", setting, [statistics.fmean(each.text.trace.tokens) for each in timed_texts], ""
    )
    yield measured("aded: texts that are greedy's", setting, same, "share", "", statistics.fmean(same))


if __name__ == "__main__":
    main(measure, __doc__ or "")
