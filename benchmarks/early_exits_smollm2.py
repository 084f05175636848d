"""What training with early exits gives decoder `del` on SmolLM2-135M, beside the model as it comes, the control.

The model learns fifteen reports of Lee's news with exits at layers 4 and 8 (`benchmarks._news_smollm2`; made once).
Asked are two pieces each of these reports (`learned`) and of as many others (`new`); the control has learned neither,
so it is asked about the new ones alone. Speed is over greedy decoding of the same model, by processor time, prompt by
prompt. Losses of all layers are of the first window of each report. A pass over four tokens can cost far more than one
over three, which the first rows tell, so drafts have two tokens at most. Without ``--full`` six prompts of each kind.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

from collections.abc import Iterator, Sequence  # noqa: E402

import torch  # noqa: E402

from benchmarks._news_llama import next_tokens, reports  # noqa: E402
from benchmarks._news_smollm2 import EXITS, LENGTH, SHORTLIST, learned, with_exits  # noqa: E402
from benchmarks._rows import Row, main, measured, with_interval  # noqa: E402
from benchmarks.decoders import EXACT_GAIN  # noqa: E402
from benchmarks.drafts import timed_parts  # noqa: E402
from benchmarks.early_exits import gained  # noqa: E402
from fedsim.components.decoder.dynamic_exit import Del, DelConfig  # noqa: E402
from fedsim.core import checkpoints  # noqa: E402
from fedsim.generation.writer import Writer, load_writer  # noqa: E402

REPORTS, SHORT = 15, 3  # of each kind that are asked about
PLACES, PROMPT = (0, 64), 32  # where a prompt begins in a report, and its tokens
DRAFTING = DelConfig(exits=EXITS, shortlist=SHORTLIST, scoring=1.0, longest=2)
UNTRAINED, TRAINED = "as it comes (control)", "trained with exits"


def measure(full: bool) -> list[Row]:
    """Return all rows."""
    count, rows = REPORTS if full else SHORT, list(passes())
    for name, model in ((UNTRAINED, checkpoints.SMOLLM2), (TRAINED, str(with_exits()))):
        writer = load_writer(model)
        for kind, known in (("learned", learned()), ("new", reports()[1])):
            texts, setting = [writer.tokenizer.encode(report) for report in known], f"{name}, {kind}"
            rows.append(with_interval("all layers: loss", setting, losses(writer, texts), "nats a token"))
            if kind == "new" or name == TRAINED:
                prompts = [text[start : start + PROMPT] for text in texts[:count] for start in PLACES]
                rows += gained(writer, Del(DRAFTING), setting, prompts, EXACT_GAIN)
    return rows


def passes() -> Iterator[Row]:
    """Yield what passes over several tokens cost here, which says how long a draft may be."""
    writer = load_writer(checkpoints.SMOLLM2)
    parts = timed_parts(writer, writer, writer.tokenizer.encode(learned()[0])[:PROMPT])
    for name, part in parts.items():
        if name.startswith("a pass over"):
            yield measured(name, "a pass over one token is 1", part, "passes", "")


@torch.no_grad()
def losses(writer: Writer, texts: Sequence[Sequence[int]]) -> list[float]:
    """Return the loss of all layers on the first window of each text, in nats a token."""
    windows = torch.tensor([text[: LENGTH + 1] for text in texts])
    return [float(next_tokens(writer.model, window[None])) for window in windows]


if __name__ == "__main__":
    main(measure, __doc__ or "")
