"""Words and tags, read back from tokens."""

from fedsim.core.nets.losses import IGNORED
from fedsim.core.types import Batch, Dataset


def pairs(dataset: Dataset, batch: Batch, row: int) -> list[tuple[str, str]]:
    """Read words and tags back."""
    assert dataset.tokenizer is not None
    found: list[tuple[list[int], str]] = []
    for token, label in zip(batch.inputs[row].tolist(), batch.labels[row].tolist(), strict=True):
        if label != IGNORED:
            found.append(([], dataset.class_names[label]))
        found[-1][0].append(token)
    return [(dataset.tokenizer.decode(tokens).strip(), tag) for tokens, tag in found]
