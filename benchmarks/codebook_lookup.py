"""The look-up of codes beside that of vector-quantize-pytorch: ratio of processor time, one thread, same size.

Both find the nearest code of N positions and return it; in training both also hand the gradient straight through and to
the codes. Ours normalises the activation besides. Programs take turns; a figure is the ratio within one turn.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import time  # noqa: E402
from collections.abc import Callable  # noqa: E402

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks._rows import Row, main, measured  # noqa: E402
from fedsim.components.bottleneck._codebook import CodebookLayer  # noqa: E402
from fedsim.core.errors import MissingExtra  # noqa: E402

_SIZES = [(4096, 32, 200), (1024, 64, 512), (1024, 64, 4096), (512, 64, 10_000)]
_TURNS = 7


def measure(full: bool) -> list[Row]:
    """Return the ratios of every size; the long version takes more turns."""
    rows: list[Row] = []
    for positions, width, codes in _SIZES:
        inputs = torch.randn(1, positions, width, generator=torch.Generator().manual_seed(0))
        ours, peer = _ours(width, codes), _peer(width, codes)
        setting = f"{positions} positions, width {width}, {codes} codes, k = 1"
        for name, program in (("look-up", _looked_up), ("training step", _stepped)):
            ratios = _ratios(program(ours, inputs), program(peer, inputs), _TURNS * (5 if full else 1))
            rows.append(measured(f"{name}, time over vector-quantize-pytorch's", setting, ratios, "times", "<= 1.0"))
        ratios = _ratios(_looked_up(_ours(width, codes, active=8), inputs), _looked_up(peer, inputs), _TURNS)
        rows.append(measured("look-up of 8 codes over its look-up of 1", setting, ratios, "times", ""))
    return rows


def _ours(width: int, codes: int, active: int = 1) -> CodebookLayer:
    return CodebookLayer(
        "layer", width, codes=codes, active=active, first_active=None, decay_steps=2, groups=1, similarity="euclid",
        combine="mean", loss="base", beta=0.0, penalty=0.0, penalty_norm=2.0, revive_after=0, revive_noise=0.0,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip


def _peer(width: int, codes: int) -> nn.Module:
    try:
        from vector_quantize_pytorch import VectorQuantize  # noqa: PLC0415 - a development dependency
    except ImportError as error:
        raise MissingExtra("vector-quantize-pytorch", "pip install vector-quantize-pytorch") from error
    return VectorQuantize(dim=width, codebook_size=codes, learnable_codebook=True, ema_update=False)


def _looked_up(module: nn.Module, inputs: Tensor) -> Callable[[], None]:
    def look_up() -> None:
        with torch.no_grad():
            module.eval()(inputs)

    return look_up


def _stepped(module: nn.Module, inputs: Tensor) -> Callable[[], None]:
    def step() -> None:
        leaf = inputs.clone().requires_grad_()
        output = module.train()(leaf)
        output = output if isinstance(output, Tensor) else output[0]
        output.square().sum().backward()

    return step


def _ratios(ours: Callable[[], None], peer: Callable[[], None], turns: int) -> list[float]:
    ours()
    peer()
    return [_seconds(ours) / _seconds(peer) for _ in range(turns)]


def _seconds(program: Callable[[], None]) -> float:
    begin = time.process_time()
    program()
    return time.process_time() - begin


if __name__ == "__main__":
    main(measure, __doc__ or "")
