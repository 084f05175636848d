"""Small data sets of every kind that the tasks know, and models that say what a test wants."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from fedsim.core.types import Batch, Dataset, InputSpec, LabelHead, Similarities

Says = Callable[[Tensor], Callable[[Tensor], Tensor]]

_HEADS = (
    LabelHead("which", "class", (), 3),
    LabelHead("what", "set", (2,), 2),
    LabelHead("how much", "numbers", (2,), 2),
)
_TEXT = InputSpec((3,), 7, (), (), vocabulary=7)


def _data(
    inputs: Tensor,
    labels: Tensor,
    spec: InputSpec,
    names: tuple[str, ...] = (),
    given: Mapping[str, Tensor] | None = None,
    **more: object,
) -> Dataset:
    batch = Batch(inputs, labels, given or {})
    return Dataset(batch, batch, spec, names, **more)  # type: ignore[arg-type]


@pytest.fixture
def samples() -> dict[str, Dataset]:
    """A data set for each task, by the task's name."""
    generator = torch.Generator().manual_seed(0)
    more = torch.Generator().manual_seed(1)
    heads = torch.Generator().manual_seed(2)
    rows, images = torch.randn(20, 5, generator=more), torch.randn(20, 1, 4, 4, generator=more)
    tokens = torch.randint(7, (20, 3), generator=generator)
    following = torch.randint(7, (20, 3), generator=generator)
    following[::3, 1:] = -100
    tags = torch.randint(5, (20, 3), generator=generator)
    tags[1::4, 0] = -100
    classes, none = torch.randint(4, (20,), generator=generator), torch.zeros(20, dtype=torch.long)
    pairs = torch.tensor([(a, a + 10) for a in range(10)])
    tagged = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    graphs = torch.cat([torch.eye(3)[torch.arange(60).view(20, 3) % 3], 1 - torch.eye(3).expand(20, 3, 3)], 2)
    return {
        "classification": _data(
            torch.randn(20, 1, 2, 2, generator=generator), classes, InputSpec((1, 2, 2), 4, (0.0,), (1.0,))
        ),
        "tabular": _data(torch.randn(20, 5, generator=generator), classes, InputSpec((5,), 4, (0.0,) * 5, (1.0,) * 5)),
        "regression": _data(rows, torch.randn(20, 2, generator=more), InputSpec((5,), 2, (0.0,) * 5, (1.0,) * 5)),
        "multi-label": _data(
            rows, torch.randint(2, (20, 3), generator=more).float(), InputSpec((5,), 3, (0.0,) * 5, (1.0,) * 5)
        ),
        "segmentation": _data(
            images, torch.randint(3, (20, 4, 4), generator=more), InputSpec((1, 4, 4), 3, (0.0,), (1.0,))
        ),
        "multi-head": _data(
            images,
            torch.cat(
                [
                    torch.randint(3, (20, 1), generator=heads).float(),
                    torch.randint(2, (20, 2), generator=heads).float(),
                    torch.randn(20, 2, generator=heads),
                ],
                1,
            ),
            InputSpec((1, 4, 4), 7, (0.0,), (1.0,), heads=_HEADS),
        ),
        "series": _data(
            torch.randn(20, 6, 2, generator=more),
            torch.randn(20, 3, generator=more),
            InputSpec((6, 2), 3, (0.0,) * 6, (1.0,) * 6),
        ),
        "contrastive": _data(
            torch.randn(20, 5, generator=torch.Generator().manual_seed(3)),
            torch.arange(10).repeat_interleave(2).float(),
            InputSpec((5,), 3, (0.0,) * 5, (1.0,) * 5),
            task="contrastive",
        ),
        "text-classification": _data(tokens, classes, InputSpec((3,), 4, (), (), vocabulary=7)),
        "next-token": _data(tokens, following, _TEXT),
        "visual-question-answering": _data(
            torch.rand(20, 1, 2, 2, generator=generator),
            following,
            InputSpec((1, 2, 2), 7, (0.0,), (1.0,)),
            given={"question": tokens},
        ),
        "tagging": _data(tokens, tags, InputSpec((3,), 5, (), (), vocabulary=7), tagged),
        "sentence-embedding": _data(
            tokens,
            none,
            InputSpec((3,), 1, (), (), vocabulary=7),
            similarities=Similarities(pairs, torch.rand(10, generator=generator)),
        ),
        "graph-classification": _data(
            graphs, classes, InputSpec((3, 6), 4, (0.0,), (1.0,)), task="graph-classification"
        ),
    }


@pytest.fixture
def says() -> Says:
    """A model that gives one row of a table after the other, however it is asked."""

    def model(table: Tensor) -> Callable[[Tensor], Tensor]:
        begin = 0

        def forward(inputs: Tensor) -> Tensor:
            nonlocal begin
            begin += len(inputs)
            return table[begin - len(inputs) : begin]

        return forward

    return model
