"""The check of received weights: false alarms on 200 honest models, and what crafting servers recover in spite of it.

A server's line says how often the check refuses its model, and which share of a batch of 16 digits could be read from
what a client without the check sends. Informed servers know the check. Least and greatest are Wilson's 95 % interval.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

from collections import Counter  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402

import torch  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks._crafted_servers import Server, recovered, servers  # noqa: E402
from benchmarks._honest_models import Honest, accuracy, batch_of, honest_models  # noqa: E402
from benchmarks._rows import Row, main, of_interval  # noqa: E402
from defenses.received.server_check import BoundedFigure, ServerCheck, ServerCheckConfig  # noqa: E402
from fedsim.core.hooks import HookContext, LocalStep  # noqa: E402
from fedsim.core.types import Batch  # noqa: E402
from fedsim.metrics.statistics import wilson  # noqa: E402

_CHECK = ServerCheck(ServerCheckConfig())
_BATCH = 16
_TRIALS, _LONG_TRIALS = 20, 100


def measure(full: bool) -> list[Row]:
    """Return the rows of honest models, then those of servers."""
    return [*_false_alarms([*honest_models()]), *(row for server in servers() for row in _of_server(server, full))]


def _false_alarms(models: Sequence[Honest]) -> Iterator[Row]:
    refused = [
        _beyond(honest.model, batch_of(honest.data, number, _BATCH), number) for number, honest in enumerate(models)
    ]
    signals = Counter(signal for figures in refused for signal in sorted({figure.signal for figure in figures}))
    counts = ", ".join(f"{signal} {count}" for signal, count in signals.most_common()) or "none"
    yield _share("false alarms", f"honest models; signals: {counts}", [bool(figures) for figures in refused])
    for what in ("fresh", "trained", "pruned", "quantised"):
        chosen = [
            bool(figures) for honest, figures in zip(models, refused, strict=True) if honest.group.startswith(what)
        ]
        yield _share("false alarms", what, chosen)
    for group in dict.fromkeys(honest.group for honest in models if honest.group.startswith(("pruned", "quantised"))):
        of_group = [(honest, figures) for honest, figures in zip(models, refused, strict=True) if honest.group == group]
        mean = sum(accuracy(honest) for honest, _ in of_group) / len(of_group)
        yield _share("false alarms", f"{group}; mean accuracy {mean:.0%}", [bool(figures) for _, figures in of_group])


def _of_server(server: Server, full: bool) -> Iterator[Row]:
    refused: list[bool] = []
    flags: list[bool] = []
    signals: Counter[str] = Counter()
    for trial in range(_LONG_TRIALS if full else _TRIALS):
        sent = server.send(torch.Generator().manual_seed(trial))
        batch = batch_of(sent.data, 1000 + trial, _BATCH)
        beyond = _beyond(sent.model, batch, trial)
        refused.append(bool(beyond))
        signals.update(sorted({figure.signal for figure in beyond}))
        flags += recovered(sent, batch)
    name = f"{server.name}{' (informed)' if server.informed else ''}"
    counts = "; ".join(f"{signal} {count}" for signal, count in signals.most_common(4)) or "no signal"
    yield _share("refused", f"{name}: {counts}", refused)
    yield _share("recoverable without the check", name, flags)


def _beyond(model: nn.Module, batch: Batch, seed: int) -> list[BoundedFigure]:
    local = LocalStep(model, dict(model.named_parameters()), batch, float(len(batch)))
    here = HookContext(1, 0, 0, torch.Generator().manual_seed(seed), local=local)
    return [finding for finding in _CHECK.findings(model.state_dict(), here) if finding.is_beyond]


def _share(name: str, setting: str, held: Sequence[bool]) -> Row:
    return of_interval(name, setting, wilson(sum(held), len(held)), "share")


if __name__ == "__main__":
    main(measure, __doc__ or "")
