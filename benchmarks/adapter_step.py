"""What does a training step with low-rank adapters cost beside peft's LoRA, on a language model of 135 million weights?

The shape is that of SmolLM2-135M; its weights are random, which costs the same.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()


from benchmarks._adapter_rows import all_rows, llama_135m  # noqa: E402
from benchmarks._rows import Row, as_they_come, main  # noqa: E402


def measure(full: bool) -> list[Row]:
    """Return all rows; the long version takes more passes."""
    return as_they_come(all_rows(llama_135m(), 49152, full, "135M"))


if __name__ == "__main__":
    main(measure, __doc__ or "")
