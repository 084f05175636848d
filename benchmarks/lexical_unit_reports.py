"""Lexical units of SmolLM2-135M on fifteen reports that it knows: tokens a pass, agreement with greedy, pace.

The model has learned the reports (`benchmarks._news_smollm2`; made once), so its units are long there, and then takes
120 steps of four texts with pad blocks: low-rank adapters (rank 16, all linear layers) and the pad. The control is the
same model with a pad that nobody trained. Texts go on by 16 tokens behind the first twelve of pieces of these reports
(known), and of others (new); all else is as in `benchmarks.lexical_unit`. Without ``--full`` four texts of each kind.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

from collections.abc import Sequence  # noqa: E402

import torch  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks._news_llama import reports  # noqa: E402
from benchmarks._news_smollm2 import learned, with_exits  # noqa: E402
from benchmarks._rows import Row, main  # noqa: E402
from benchmarks.lexical_unit import Subject, rows_of, with_component  # noqa: E402
from fedsim.core.types import Batch, InputSpec, Tokenizer  # noqa: E402
from fedsim.data._tokenizer import ModelTokenizer  # noqa: E402
from fedsim.models._checkpoint import causal_model  # noqa: E402

LENGTH, BEGINNING, WRITTEN = 32, 12, 16
PROMPTS, SHORT = 20, 4
STEPS, BATCH, RATE, SURE = 120, 4, 1e-3, 0.5
_TARGETS = [f"*.{projection}_proj" for projection in ("q", "k", "v", "o", "gate", "up", "down")]


def measure(full: bool) -> list[Row]:
    """Return all rows."""
    return list(rows_of(subject(PROMPTS if full else SHORT)))


def subject(prompts: int) -> Subject:
    """Return the model that knows the reports, with fresh adapters."""
    folder = with_exits()
    tokenizer = ModelTokenizer(folder)
    known, new = (pieces(tokenizer, texts) for texts in (learned(), reports()[1]))
    spec = InputSpec((LENGTH,), tokenizer.vocabulary, (), (), vocabulary=tokenizer.vocabulary)

    def model() -> nn.Module:
        bare = causal_model(folder, spec).eval()
        network = with_component("lora", {"targets": _TARGETS, "rank": 16, "alpha": 32.0}, bare)
        return with_component("pad-blocks", {}, network)

    kinds = {"reports": (known, new)}
    return Subject(
        "SmolLM2-135M that learned reports",
        model,
        known,
        kinds,
        tokenizer,
        STEPS,
        BATCH,
        RATE,
        SURE,
        BEGINNING,
        WRITTEN,
        prompts,
        control=0,
        mixed=True,
    )


def pieces(tokenizer: Tokenizer, texts: Sequence[str]) -> Batch:
    """Return all pieces of texts, in turn the first of each, the second, and so on."""
    rows_by_start: list[tuple[int, list[int]]] = []
    for text in texts:
        tokens = tokenizer.encode(text)
        starts = range(0, len(tokens) - LENGTH, LENGTH + 1)
        rows_by_start += [(start, tokens[start : start + LENGTH + 1]) for start in starts]
    rows = torch.tensor([tokens_of_row for _, tokens_of_row in sorted(rows_by_start, key=lambda entry: entry[0])])
    return Batch(rows[:, :-1], rows[:, 1:])


if __name__ == "__main__":
    main(measure, __doc__ or "")
