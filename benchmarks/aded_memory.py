"""ADED's table as a memory, on SmolLM2-135M: tokens a pass with a table that stays, and one that learns.

The table is counted on reports of the Lee news; the prompts are beginnings of other reports, gone on with by 64 tokens.
A frozen table stays as it is. A lasting one learns from every text and is kept for the next one, as published; when all
prompts were asked it has read them, and each is asked again. Then beginnings that nobody asked before stand beside
those that were: the tokens of a step tell the two apart, area under the ROC curve; intervals by bootstrap over texts.
Controls are the frozen table, and the lasting one of a second user, which holds that user's own texts alone. Without
``--full`` six prompts instead of twelve.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import tempfile  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402

from benchmarks._news_llama import reports  # noqa: E402
from benchmarks._rows import Row, main, of_interval, with_interval  # noqa: E402
from benchmarks.decoders import timed  # noqa: E402
from fedsim.components.decoder.aded import Aded, AdedConfig, count_table, save_table  # noqa: E402
from fedsim.core import checkpoints  # noqa: E402
from fedsim.generation.writer import Writer, load_writer  # noqa: E402
from fedsim.metrics.side_channels import trace_auc  # noqa: E402

PROMPT, WRITTEN = 32, 64
PROMPTS, SHORT = 12, 6


def measure(full: bool) -> list[Row]:
    """Return all rows."""
    writer, count = load_writer(checkpoints.SMOLLM2), PROMPTS if full else SHORT
    texts = [writer.tokenizer.encode(report)[:PROMPT] for report in reports()[1]]
    prompts, others = texts[:count], texts[count : 2 * count]
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.json"
        save_table(table, count_table(map(writer.tokenizer.encode, reports()[0])))
        quick = {"depth": 8, "nodes": 8, "table": table}
        frozen = Aded(AdedConfig.model_validate({**quick, "adaptive": False}))
        lasting = Aded(AdedConfig.model_validate({**quick, "persist": True}))
        series = {
            "frozen, asked": paces(writer, frozen, prompts),
            "lasting, asked for the first time": paces(writer, lasting, prompts),
            "lasting, asked again": paces(writer, lasting, prompts),
        }
        nobody = {
            "lasting": paces(writer, lasting, others),
            "frozen (control)": paces(writer, frozen, others),
            "a table for each user (control)": paces(writer, Aded(lasting.config), others),
        }
    known = ("lasting, asked again", "frozen, asked", "lasting, asked for the first time")
    return [
        *(with_interval("tokens a pass", name, values, "tokens") for name, values in series.items()),
        *(with_interval("tokens a pass", f"{name}, nobody asked", values, "tokens") for name, values in nobody.items()),
        *(
            told_apart_by_pace(name, series[first], others_of_series)
            for first, (name, others_of_series) in zip(known, nobody.items(), strict=True)
        ),
    ]


def told_apart_by_pace(setting: str, of_asked: Sequence[float], others: Sequence[float]) -> Row:
    """Return how well tokens a pass tell beginnings that somebody asked before from others."""
    is_asked = np.arange(len(of_asked) + len(others)) < len(of_asked)
    area = trace_auc(np.array([*of_asked, *others]), is_asked, np.random.default_rng(0), 0.95)
    return of_interval("asked before or not, by tokens a pass", setting, area, "area")


def paces(writer: Writer, decoder: Aded, prompts: Sequence[Sequence[int]]) -> list[float]:
    """Return the tokens of a pass behind each prompt."""
    texts = [timed(writer, decoder, prompt, WRITTEN).text for prompt in prompts]
    return [len(text.tokens) / len(text.trace.tokens) for text in texts]


if __name__ == "__main__":
    main(measure, __doc__ or "")
