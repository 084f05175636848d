"""Real Flower nodes with guards, and an app without mods that tries to tell its server more than it may."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.common.serde import message_to_proto
from flwr.serverapp.strategy import FedAvg

from fedsim.guard.policy import read_policy
from fedsim.privacy.accounting import Spent, epsilon
from fedsim.privacy.ledger import Ledger, LedgerEntry, open_reservations
from tests.guard import site
from tests.guard.site import NOISE, START, Federation, Site, asking

PATIENCE = 120.0
SMUGGLING = ("metrics", "config", "record", "names", "types", "error", "death")


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    """Two sites; the first may spend what three rounds cost."""
    federation = Federation(tmp_path, 2)
    three = epsilon([Spent(2.0, 1.0, 3)], 1e-5).value + 1e-6
    for one, budget in zip(federation.sites, (three, 100.0), strict=True):
        site.policy(one.folder, one.port, budget={"epsilon": budget, "delta": 1e-5})
    with contextlib.closing(federation):
        federation.begin()
        for one in federation.sites:
            one.begin()
            one.start_guard()
        yield federation


def entries(one: Site) -> tuple[LedgerEntry, ...]:
    rules = read_policy(one.folder / "guard.toml")
    return Ledger.open(rules.ledger, rules.key).entries()


def rounds(one: Site) -> int:
    return sum(entry.kind == "reserved" for entry in entries(one))


def assert_ends(one: Site, mark: bytes) -> None:
    """What ran an app of this site is gone soon after its guard, with the folders of its messages."""
    deadline = time.monotonic() + 20
    while any(mark in command for command in commands()) or list(one.folder.glob("tmp/fedsim-guard-*")):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def commands() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            yield path.read_bytes()


def assert_is_covered(reply: Message) -> None:
    assert not reply.has_error(), reply.error
    assert [*reply.content] == ["arrays", "metrics"]
    assert dict(reply.content.metric_records["metrics"]) == {"num-examples": 1}
    arrays = reply.content.array_records["arrays"].to_torch_state_dict()
    assert {n: (t.shape, t.dtype) for n, t in arrays.items()} == {n: (t.shape, t.dtype) for n, t in START.items()}
    values = torch.cat([tensor.flatten() for tensor in arrays.values()])
    # The standard deviation of n normal draws is within 6 of its standard errors, deviation / sqrt(2n).
    assert float(values.std()) == pytest.approx(NOISE, abs=6 * NOISE / (2 * len(values)) ** 0.5)
    assert b"SECRET" not in message_to_proto(reply).SerializeToString()


@pytest.mark.slow
def test_an_app_without_mods_sends_private_arrays_alone_and_stops_where_the_budget_ends(federation: Federation) -> None:
    poor, rich = federation.sites
    with federation.run(site.archive("first")) as grid:
        nodes = federation.await_nodes(grid)
        first = {reply.metadata.src_node_id: reply for reply in grid.send_and_receive(
            [asking("", node) for node in nodes], timeout=PATIENCE
        )}  # fmt: skip
        assert first.keys() == set(nodes)
        for reply in first.values():
            assert_is_covered(reply)
        assert (rounds(poor), rounds(rich)) == (1, 1)
        for node in nodes:  # whichever is the rich one
            replies = [
                reply for mode in SMUGGLING for reply in grid.send_and_receive([asking(mode, node)], timeout=PATIENCE)
            ]
            assert len(replies) == len(SMUGGLING)
            for reply in replies[:2]:
                assert_is_covered(reply)
            for reply in replies[2:]:
                if reply.has_error():
                    assert reply.error.reason == "the site's guard: the epsilon of this site is spent."
                else:
                    assert_is_covered(reply)
        assert (rounds(poor), rounds(rich)) == (3, 1 + len(SMUGGLING))
        (evaluated,) = grid.send_and_receive([asking("", nodes[0], "evaluate")], timeout=PATIENCE)
        assert evaluated.error.reason == "the site's guard: this site answers train alone."
    poor.kill("guard")
    poor.start_guard()
    with federation.run(site.archive("second")) as grid:
        answers = list(grid.send_and_receive([asking("", node) for node in nodes], timeout=PATIENCE))
        refused = [reply for reply in answers if reply.has_error()]
        assert [reply.error.reason for reply in refused] == ["the site's guard: the epsilon of this site is spent."]
        assert len(answers) == 2
        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=2, min_evaluate_nodes=0, min_available_nodes=2)
        first = ArrayRecord(START)
        result = strategy.start(grid, first, num_rounds=1, timeout=PATIENCE, train_config=ConfigRecord({"mode": ""}))
        assert result.arrays.keys() == START.keys()  # of the other site alone: the mean goes on without this one
    assert (rounds(poor), rounds(rich)) == (3, 3 + len(SMUGGLING))
    assert "'ward' has spent epsilon 3.709" in poor.log("guard")
    assert open_reservations(entries(rich)) == set()


@pytest.mark.slow
def test_a_guard_that_is_killed_while_an_app_runs_sends_nothing_and_what_it_reserved_counts(
    federation: Federation,
) -> None:
    poor, rich = federation.sites
    with federation.run(site.archive()) as grid:
        nodes = federation.await_nodes(grid)
        for one in federation.sites:
            one.kill("guard")
        silent = list(grid.send_and_receive([asking("", node) for node in nodes], timeout=10))
        assert silent == []
        rich.start_guard()
        deadline = time.monotonic() + PATIENCE
        while "sent a private update" not in rich.log("guard"):  # to the message of before
            assert time.monotonic() < deadline, rich.log("guard")
            time.sleep(0.2)
        sent = grid.push_messages([asking("sleep", node) for node in nodes])
        mark = str(rich.folder / "data.txt").encode()
        while not any(mark in command for command in commands()):  # the app is at work
            assert time.monotonic() < deadline
            time.sleep(0.1)
        rich.kill("guard")
        assert_ends(rich, mark)
        replies: list[Message] = []
        end = time.monotonic() + 60  # a SuperNode gives up a guard that has been silent for thirty seconds
        while not replies and time.monotonic() < end:
            replies += grid.pull_messages(sent)
            time.sleep(0.5)
        assert all(reply.has_error() for reply in replies)
    assert open_reservations(entries(rich)) == {3}
    assert rounds(poor) == 0
