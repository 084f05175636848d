"""What trees of ADED gain on SmolLM2-135M in its domain: a table of other news, and one that holds its own answers.

Thirty beginnings of news reports are gone on with by 32 tokens, beside greedy decoding. First the table was counted on
other reports, and trees have 3 or 8 tokens. Then it was also counted on what the model wrote behind these beginnings:
requests that come again. Tables learn from the text. Ratios are of processor time, prompt by prompt, passes alternate;
all on one thread. Without ``--full`` four prompts.
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
from benchmarks.decoders import EXACT_GAIN, LENGTH, PROMPTS, SHORT, Timed, timed, written_in_turn  # noqa: E402
from fedsim.components.decoder.aded import Aded, AdedConfig, count_table, save_table  # noqa: E402
from fedsim.components.decoder.greedy import Greedy, GreedyConfig  # noqa: E402
from fedsim.core import checkpoints  # noqa: E402
from fedsim.core.hooks import Decoder  # noqa: E402
from fedsim.generation.writer import Writer, load_writer  # noqa: E402

NODES = (3, 8)


def measure(full: bool) -> list[Row]:
    """Return all rows."""
    writer, count = load_writer(checkpoints.SMOLLM2), PROMPTS if full else SHORT
    others, new = ([writer.tokenizer.encode(own) for own in some] for some in reports())
    asked = [own[:LENGTH] for own in new if len(own) >= LENGTH][:count]
    greedy = Greedy(GreedyConfig())
    timed(writer, greedy, asked[0])
    with tempfile.TemporaryDirectory() as folder:
        rows, written = compared(writer, "a table of other reports", asked, greedy, trees(Path(folder), others))
        answers = [[*prompt, *text] for prompt, text in zip(asked, written, strict=True)]
        known = trees(Path(folder), [*others, *answers])
        again, _ = compared(writer, "its own answers too", asked, greedy, known, EXACT_GAIN)
    return [*rows, *again]


def trees(folder: Path, texts: Sequence[Sequence[int]]) -> dict[int, Decoder[Any, Any]]:
    """Return decoders by the size of their trees, with a table counted on texts."""
    path = folder / f"{len(texts)}.json"
    save_table(path, count_table(texts))
    return {nodes: Aded(AdedConfig(table=path, prompt=True, depth=nodes, paths=nodes, nodes=nodes)) for nodes in NODES}


def compared(
    writer: Writer,
    table: str,
    asked: Sequence[Sequence[int]],
    greedy: Decoder[Any, Any],
    built: dict[int, Decoder[Any, Any]],
    must: str = "",
) -> tuple[list[Row], list[tuple[int, ...]]]:
    """Return what trees gain beside greedy, and what that writes."""
    base, *found = written_in_turn([(writer, own) for own in (greedy, *built.values())], asked)
    rows = list[Row]()
    for nodes, own in zip(built, found, strict=True):
        rows += described(f"{table}; trees of {nodes}", own, base, must)
    return rows, [own.text.tokens for own in base]


def described(setting: str, own: Sequence[Timed], base: Sequence[Timed], must: str) -> Iterator[Row]:
    """Yield pace, tokens a pass, and whether the text is greedy's."""
    pace = [slow.seconds / fast.seconds for slow, fast in zip(base, own, strict=True)]
    same = [float(a.text.tokens == b.text.tokens) for a, b in zip(own, base, strict=True)]
    yield measured("aded / greedy: tokens a second", setting, pace, "times", must)
    yield with_interval("aded: tokens a pass", setting, [statistics.fmean(each.text.trace.tokens) for each in own], "")
    yield measured("aded: texts that are greedy's", setting, same, "share", "", statistics.fmean(same))


if __name__ == "__main__":
    main(measure, __doc__ or "")
