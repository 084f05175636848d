"""Sets of text by name, and their examples as text."""

import os
from pathlib import Path
from typing import Any

import pytest

from fedsim.core import registry
from fedsim.core.errors import MissingExtra
from fedsim.core.types import Batch, Dataset


def load(name: str, documents: Path, **settings: Any) -> Dataset:
    method = registry.get("dataset", name)
    needed = {"path": documents} if "path" in method.config.model_fields else {}
    try:
        return method.make(method.config.model_validate({**needed, **settings}))
    except MissingExtra as error:
        if "CI" in os.environ:
            pytest.fail(str(error))
        pytest.skip(str(error))


def texts(dataset: Dataset, batch: Batch) -> list[str]:
    assert dataset.tokenizer is not None
    return [dataset.tokenizer.decode(row) for row in batch.inputs.tolist()]
