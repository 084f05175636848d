"""The look-up of nearest keys beside a plain `torch.cdist` and `topk`: ratio of processor time, one thread, same size.

Both get heads (C, N, d) and keys (C, J, d) and return the number of the nearest key. Programs take turns; a figure is
the ratio within one turn.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from functools import partial  # noqa: E402

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks._rows import Row, main, measured  # noqa: E402
from fedsim.components.bottleneck._key_value import nearest  # noqa: E402

_SIZES = [(1, 32, 256, 8, 1), (256, 32, 256, 8, 1), (256, 32, 256, 8, 4), (64, 64, 1024, 8, 1), (64, 256, 4096, 14, 1)]
_TURNS = 15


def measure(full: bool) -> list[Row]:
    """Return the ratios of every size; the long version takes more turns."""
    rows: list[Row] = []
    for batch, codebooks, pairs, width, active in _SIZES:
        heads, keys = tensors(batch, codebooks, pairs, width)
        setting = f"{batch} heads in {codebooks} codebooks of {pairs} keys, width {width}, topk {active}"
        ours, plain = partial(nearest, heads, keys, active), partial(_plain, heads, keys, active)
        ratios = _ratios(ours, plain, _TURNS * (5 if full else 1))
        rows.append(measured("look-up, time over cdist and topk", setting, ratios, "times", "<= 1.0"))
    return rows


def tensors(batch: int, codebooks: int, pairs: int, width: int) -> tuple[Tensor, Tensor]:
    """Return random heads (C, N, d) and keys (C, J, d)."""
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(codebooks, batch, width, generator=generator),
        torch.randn(codebooks, pairs, width, generator=generator),
    )


def _plain(heads: Tensor, keys: Tensor, active: int) -> Tensor:
    return torch.cdist(heads, keys).topk(active, largest=False).indices


def _ratios(ours: Callable[[], Tensor], plain: Callable[[], Tensor], turns: int) -> list[float]:
    ours()
    plain()
    return [_seconds(ours) / _seconds(plain) for _ in range(turns)]


def _seconds(program: Callable[[], Tensor]) -> float:
    begin, repeats = time.process_time(), 0
    while repeats == 0 or time.process_time() - begin < 0.02:  # noqa: PLR2004 - seconds, as long as a clock needs
        program()
        repeats += 1
    return (time.process_time() - begin) / repeats


if __name__ == "__main__":
    main(measure, __doc__ or "")
