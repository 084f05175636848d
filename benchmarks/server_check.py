"""The check of received weights: false alarms on 200 honest models, and what crafting servers recover in spite of it.

A server's line says how often the check refuses its model, and which share of a batch of 16 digits could be read from
what a client without the check sends. Informed servers know the check.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import nn

from benchmarks._crafted_servers import Server, recovered_flags, servers
from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._honest_models import Honest, accuracy, batch_of, honest_models
from benchmarks._rows import Row, share
from defenses.received.server_check import BoundedFigure, ServerCheck, ServerCheckConfig
from fedsim.core.hooks import HookContext, LocalStep
from fedsim.core.types import Batch

_CHECK = ServerCheck(ServerCheckConfig())
_BATCH = 16
_TRIALS, _LONG_TRIALS = 20, 100


@experiment("server-check", minutes=10, page="defenses/server-check")
def server_check(budget: Budget) -> Cells:
    """Return the cell of honest models, then one for each server."""
    by_name = {_name(server): partial(_server_rows, server, budget.full) for server in servers()}
    return {"honest models": lambda: _false_alarms([*honest_models()]), **by_name}


def _name(server: Server) -> str:
    return f"{server.name}{' (informed)' if server.is_informed else ''}"


def _false_alarms(models: Sequence[Honest]) -> Iterator[Row]:
    refused = [
        _beyond(honest.model, batch_of(honest.data, number, _BATCH), number) for number, honest in enumerate(models)
    ]
    signals = Counter(signal for figures in refused for signal in sorted({figure.signal for figure in figures}))
    counts = ", ".join(f"{signal} {count}" for signal, count in signals.most_common()) or "none"
    yield share("false alarms", "honest models", [float(bool(figures)) for figures in refused])._replace(note=counts)
    for what in ("fresh", "trained", "pruned", "quantised"):
        chosen = [
            bool(figures) for honest, figures in zip(models, refused, strict=True) if honest.group.startswith(what)
        ]
        yield share("false alarms", what, chosen)
    for group in dict.fromkeys(honest.group for honest in models if honest.group.startswith(("pruned", "quantised"))):
        of_group = [(honest, figures) for honest, figures in zip(models, refused, strict=True) if honest.group == group]
        mean = sum(accuracy(honest) for honest, _ in of_group) / len(of_group)
        note = f"mean accuracy {mean:.0%}"
        yield share("false alarms", group, [float(bool(figures)) for _, figures in of_group])._replace(note=note)


def _server_rows(server: Server, full: bool) -> Iterator[Row]:
    refused: list[bool] = []
    flags: list[bool] = []
    signals: Counter[str] = Counter()
    for trial in range(_LONG_TRIALS if full else _TRIALS):
        sent = server.send(torch.Generator().manual_seed(trial))
        batch = batch_of(sent.data, 1000 + trial, _BATCH)
        beyond = _beyond(sent.model, batch, trial)
        refused.append(bool(beyond))
        signals.update(sorted({figure.signal for figure in beyond}))
        flags += recovered_flags(sent, batch)
    name = _name(server)
    counts = "; ".join(f"{signal} {count}" for signal, count in signals.most_common(4)) or "no signal"
    yield share("refused", name, refused)._replace(note=counts)
    yield share("recoverable without the check", name, flags)


def _beyond(model: nn.Module, batch: Batch, seed: int) -> list[BoundedFigure]:
    local = LocalStep(model, dict(model.named_parameters()), batch, float(len(batch)))
    here = HookContext(1, 0, 0, torch.Generator().manual_seed(seed), local=local)
    return [finding for finding in _CHECK.findings(model.state_dict(), here) if finding.is_beyond]
