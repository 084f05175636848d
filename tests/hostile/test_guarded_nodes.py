"""Four real Flower nodes with guards, and an app without mods that tries to tell its server more than it may.

With `-rP` pytest shows what each site's guard tells. FEDSIM_KILLS_SEED=3 has guards killed at other moments.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import re
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from dp_accounting.pld.privacy_loss_mechanism import GaussianPrivacyLoss
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.cli.build import build_fab_from_disk
from flwr.common.serde import message_to_proto
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fedsim.core.types import Tensors
from fedsim.guard.new_app import write_app
from fedsim.guard.policy import read_policy
from fedsim.privacy.accounting import Spent, epsilon
from fedsim.privacy.ledger import Ledger, LedgerEntry, open_reservations
from tests.guard import site
from tests.guard.site import NOISE, START, Federation, Site, asking

PATIENCE = 900.0  # seconds for four apps at once on a busy machine; an idle one needs less than 140
APPS = {"seconds": 600.0}  # of an app, of which most is the import of torch and Flower
SMUGGLING = ("metrics", "config", "record", "names", "types", "error", "death")
SPENT = "the site's guard: the epsilon of this site is spent."
WAITS = "Connects to the SuperNode"
REFUSED = "Failed to activate SuperNode"  # in its log
GAVE_UP = "ClientApp stopped responding."  # what a SuperNode says in place of a guard that fell silent
KEPT = ("running_mean", "running_var", "num_batches_tracked")
KILLS = 20
LATEST = 16.0  # seconds after a message at which the last guard is killed: its reply is sent by then, or about to be
# A guard that kills itself with SIGKILL once its SuperNode has heard one of its calls for so many times.
KILLED_AFTER = """
import os, runpy, signal, sys
from flwr.supercore.runtime import RuntimeHttpClient

name, left = sys.argv[1], int(sys.argv[2])
call = getattr(RuntimeHttpClient, name)


def last(client, request):
    global left
    answer, left = call(client, request), left - 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer


setattr(RuntimeHttpClient, name, last)
sys.argv = ["fedsim", "guard", "run", "guard.toml"]
runpy.run_module("fedsim", run_name="__main__")
"""


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    """Four nodes that wait for their guards; the first site may spend what three rounds cost."""
    federation = Federation(tmp_path)
    three = epsilon([Spent(2.0, 1.0, 3)], 1e-5).value + 1e-6
    for one, budget in zip(federation.sites, (three, 50.0, 50.0, 50.0), strict=True):
        site.policy(one.folder, one.port, budget={"epsilon": budget, "delta": 1e-5}, apps=APPS)
    with contextlib.closing(federation):
        federation.begin()
        for one in federation.sites:
            one.begin()
        yield federation
    for one in federation.sites:
        print(f"{one.folder.name}:\n{one.log('guard')}\n{one.log('node')[-4000:]}")


def entries(one: Site) -> tuple[LedgerEntry, ...]:
    rules = read_policy(one.folder / "guard.toml")
    return Ledger.open(rules.ledger, rules.key).entries()


def reserved(one: Site) -> set[str]:
    """Return the messages that a site has paid for."""
    return {entry.about["message"] for entry in entries(one) if entry.kind == "reserved"}


def rounds(sites: Sequence[Site]) -> list[int]:
    return [len(reserved(one)) for one in sites]


def start_guards(sites: Sequence[Site]) -> None:
    """Start guards, and wait until they wait for messages."""
    starts = [one.log("guard").count(WAITS) for one in sites]
    for one in sites:
        one.start_guard()

    def are_waiting() -> bool:
        return all(one.log("guard").count(WAITS) > before for one, before in zip(sites, starts, strict=True))

    await_so(are_waiting, "guards that wait for messages")


def await_so(is_so: Callable[[], object], awaited: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, f"no {awaited} after {PATIENCE:.0f} s"
        time.sleep(0.1)


def commands() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            yield path.read_bytes()


def is_gone(one: Site) -> bool:
    """Tell whether what ran an app of this site has ended, with the folders of its messages."""
    mark = str(one.folder / "data.txt").encode()
    return not any(mark in command for command in commands()) and not list(one.folder.glob("tmp/fedsim-guard-*"))


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


def assert_all_covered(replies: Sequence[Message], refused: int) -> None:
    """All but so many replies are private arrays, and those say that the epsilon is spent."""
    assert [reply.error.reason for reply in replies if reply.has_error()] == [SPENT] * refused
    for reply in replies:
        if not reply.has_error():
            assert_is_covered(reply)


@pytest.mark.slow
def test_an_app_without_mods_sends_private_arrays_alone_and_stops_where_the_budget_ends(federation: Federation) -> None:
    poor, *_ = sites = federation.sites
    start_guards(sites)
    with federation.run(site.archive("first")) as grid:
        nodes = federation.await_nodes(grid)
        first = list(grid.send_and_receive([asking("", node) for node in nodes], timeout=PATIENCE))
        assert {reply.metadata.src_node_id for reply in first} == set(nodes)
        assert_all_covered(first, 0)
        assert rounds(sites) == [1, 1, 1, 1]
        modes = cycle(SMUGGLING)
        tries = [asking(mode, node) for node in nodes for mode in islice(modes, 5)]  # each mode at two sites or three
        replies = list(grid.send_and_receive(tries, timeout=PATIENCE))
        assert len(replies) == len(tries)
        assert_all_covered(replies, 3)  # the first site could pay for two of its five
        assert rounds(sites) == [3, 6, 6, 6]
        others = [asking("", nodes[0], kind) for kind in ("evaluate", "query.client")]
        for reply in grid.send_and_receive(others, timeout=PATIENCE):
            assert reply.error.reason == "the site's guard: this site answers train alone."
    poor.kill("guard")
    start_guards([poor])
    with federation.run(site.archive("second")) as grid:
        answers = list(grid.send_and_receive([asking("", node) for node in nodes], timeout=PATIENCE))
        assert len(answers) == 4
        assert_all_covered(answers, 1)
        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=4, min_evaluate_nodes=0, min_available_nodes=4)
        start = ArrayRecord(START)
        result = strategy.start(grid, start, num_rounds=1, timeout=PATIENCE, train_config=ConfigRecord({"mode": ""}))
        assert result.arrays.keys() == START.keys()  # of three sites: the mean goes on without the first
    assert rounds(sites) == [3, 8, 8, 8]
    assert "'ward' has spent epsilon 3.709" in poor.log("guard")
    assert [open_reservations(entries(one)) for one in sites] == [set()] * 4
    assert_needs_its_key(poor)


def assert_needs_its_key(one: Site) -> None:
    """The SuperLink sends a site away that comes with another key."""
    one.kill("node")
    key = one.folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", str(key)], check=True)
    one.options[-1] = str(key)
    before = len(one.log("node"))
    one.begin()
    assert one.processes["node"].wait(PATIENCE) != 0
    assert REFUSED in one.log("node")[before:]


@pytest.mark.slow
def test_guards_killed_at_twenty_moments_send_nothing_undefended_and_what_they_reserved_counts(
    federation: Federation,
) -> None:
    sites, replies, stages = federation.sites, list[Message](), Counter[str]()
    site.policy(sites[0].folder, sites[0].port, budget={"epsilon": 50.0, "delta": 1e-5}, apps=APPS)
    seed = int(os.environ.get("FEDSIM_KILLS_SEED", "0"))
    moments = kill_moments(random.Random(seed))
    modes = ("", "metrics", "", "config", "sleep")  # an app that sleeps would be there still when its guard is killed
    with federation.run(site.archive()) as grid:
        nodes = federation.await_nodes(grid)
        waiting = push(grid, "", nodes)
        time.sleep(5)
        assert list(grid.pull_messages(list(waiting))) == []  # without a guard nothing leaves
        start_guards(sites)
        for kill, mode in zip(range(0, KILLS, len(sites)), modes, strict=True):
            begin = time.monotonic()
            waiting = waiting or push(grid, mode, nodes)
            for moment, one in zip(sorted(moments[kill : kill + len(sites)]), sites, strict=True):
                time.sleep(max(0.0, begin + moment - time.monotonic()))
                one.kill("guard")
                stages[stage(one, waiting)] += 1
            for one in sites:
                await_so(lambda one=one: is_gone(one), "end of the app and its folders")
            start_guards(sites)
            replies += pulled(grid, waiting)
            waiting = set()
        last = pulled(grid, push(grid, "", nodes))
    assert_all_covered(last, 0)
    covered = [reply for reply in replies if not reply.has_error()]
    reasons = Counter(reply.error.reason for reply in replies if reply.has_error())
    print(f"seed {seed}, {KILLS} kills, {dict(stages)}; the server got {len(covered)} private updates, {dict(reasons)}")
    for reply in covered:
        assert_is_covered(reply)
    assert {*reasons} <= {GAVE_UP}
    assert len(replies) == sum(stages.values()) == KILLS
    paid = set[str]().union(*map(reserved, sites))
    assert {reply.metadata.reply_to_message_id for reply in [*covered, *last]} <= paid


def kill_moments(rng: random.Random) -> list[float]:
    """Return seconds after a message at which guards are killed, in all parts of the time that a message takes."""
    moments = [(part + rng.random()) * LATEST / KILLS for part in range(KILLS)]
    rng.shuffle(moments)
    return moments


def stage(one: Site, messages: set[str]) -> str:
    """Tell how far a guard that was killed had come with one of these messages."""
    paid = {entry.number for entry in entries(one) if entry.kind == "reserved" and entry.about["message"] in messages}
    if paid:
        return "while its app ran" if paid & open_reservations(entries(one)) else "after its reply was sent"
    return "before it was paid" if (one.folder / "secret.at-work").exists() else "before it was taken"


@pytest.mark.slow
def test_guards_killed_between_two_calls_leave_no_message_without_a_reply(federation: Federation) -> None:
    calls = [("PullMessages", 1), ("PullTaskInput", 1), ("PushObject", 1), ("PushMessages", 2)]
    sites = federation.sites
    with federation.run(site.archive()) as grid:
        nodes = federation.await_nodes(grid)
        waiting = push(grid, "", nodes)
        for one, (name, times) in zip(sites, calls, strict=True):
            one.start("guard", [sys.executable, "-c", KILLED_AFTER, name, str(times)])
        await_so(lambda: all(one.processes["guard"].poll() is not None for one in sites), "end of all guards")
        start_guards(sites)
        replies = pulled(grid, waiting)
        last = pulled(grid, push(grid, "", nodes))
    assert [reply.error.reason for reply in replies if reply.has_error()] == [GAVE_UP] * 3
    for reply in replies:
        if not reply.has_error():
            assert_is_covered(reply)
    assert_all_covered(last, 0)
    assert rounds(sites) == [1, 1, 2, 2]


@pytest.mark.slow
def test_a_message_that_no_guard_takes_expires_and_the_node_goes_on(federation: Federation) -> None:
    sites = federation.sites
    with federation.run(site.archive()) as grid:
        nodes = federation.await_nodes(grid)
        expired = pulled(grid, push(grid, "", nodes, ttl=10.0))
        start_guards(sites)
        last = pulled(grid, push(grid, "", nodes))
    assert all("may have expired due to its TTL" in (reply.error.reason or "") for reply in expired)
    assert_all_covered(last, 0)
    assert rounds(sites) == [2, 2, 2, 2]  # what was too old was worked on, and its replies were thrown away


DENSENET = '''def make_model():
    """Return a small DenseNet."""
    from torchvision.models import DenseNet

    model = DenseNet(growth_rate=8, block_config=(2, 2), num_init_features=16, num_classes=10)
    model.features.conv0, model.features.pool0 = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.Identity()
    return model
'''


def densenet_app(folder: Path) -> ModuleType:
    """Write the app of `fedsim guard template` with a DenseNet and the same data at each node; return its task."""
    write_app(folder)
    package = folder / folder.name
    task, client = package / "task.py", package / "client_app.py"
    code = task.read_text(encoding="utf-8")
    task.write_text(re.sub(r"def make_model.*?\n\n\n", f"{DENSENET}\n\n", code, flags=re.DOTALL))
    node = 'int(node["partition-id"]), int(node["num-partitions"])'
    told = client.read_text(encoding="utf-8")
    assert node in told
    client.write_text(told.replace(node, "0, 4"))
    spec = importlib.util.spec_from_file_location("task_of_the_app", task)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_densenet_with_batch_normalisation_trains_and_evaluates_at_every_site(
    federation: Federation, tmp_path: Path
) -> None:
    """Ten rounds of FedAvg that evaluates everywhere; each site sends a noised accuracy in two of them."""
    task, sites = densenet_app(tmp_path / "app"), federation.sites
    data = read_policy(tmp_path / "app" / "guard.toml").apps.readable
    accuracy = {"low": 0.0, "high": 1.0, "noise_multiplier": 3.0, "every": 5}
    rules = {"types": ["train", "evaluate"], "evaluate": "run"}
    for one in sites:
        apps = {**APPS, "readable": [str(path) for path in data]}
        budget = {"epsilon": 20.0, "delta": 1e-5}
        site.policy(one.folder, one.port, apps=apps, budget=budget, messages=rules, metrics={"accuracy": accuracy})
    start_guards(sites)
    exchanges = list[tuple[list[Message], list[Message]]]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a package that Flower uses
        fab = build_fab_from_disk(tmp_path / "app")
    with federation.run(fab) as grid:
        federation.await_nodes(grid)
        send = grid.send_and_receive

        def recording(messages: Iterable[Message], **options: Any) -> list[Message]:
            sent = list(messages)
            replies = list(send(sent, **options))
            exchanges.append((sent, replies))
            return replies

        grid.send_and_receive = recording
        strategy = FedAvg(fraction_evaluate=1.0, min_train_nodes=4, min_evaluate_nodes=4, min_available_nodes=4)
        result = strategy.start(grid, ArrayRecord(task.make_model().state_dict()), num_rounds=10, timeout=PATIENCE)
    assert len(result.train_metrics_clientapp) == len(result.evaluate_metrics_clientapp) == 10
    trainings, evaluations = exchanges[::2], exchanges[1::2]
    for sent, replies in trainings:
        received = sent[0].content.array_records["arrays"].to_torch_state_dict()
        assert len(replies) == 4
        for reply in replies:
            assert_is_noised(received, reply.content.array_records["arrays"].to_torch_state_dict())
    for number, (_, replies) in enumerate(evaluations, 1):
        for metrics in (reply.content.metric_records["metrics"] for reply in replies):
            assert list(metrics) == ["num-examples", "accuracy"]
            assert (metrics["accuracy"] == 0.5) is (number % 5 != 0)
    second_opinion = GaussianPrivacyLoss(standard_deviation=(10 / 2.0**2 + 2 / 3.0**2) ** -0.5)
    for one in sites:
        assert "Traceback" not in one.log("app")
        ledger = read_policy(one.folder / "guard.toml")
        spent = Ledger.open(ledger.ledger, ledger.key).spent("ward", 1e-5).value
        assert second_opinion.get_delta_for_epsilon(spent) == pytest.approx(1e-5, rel=1e-6)
        assert open_reservations(entries(one)) == set()


def assert_is_noised(received: Tensors, sent: Tensors) -> None:
    """Statistics and counters are as received; all else has the noise of the policy."""
    assert list(sent) == list(received)
    kept = [name for name in sent if name.rpartition(".")[2] in KEPT]
    assert kept
    assert all(torch.equal(sent[name], received[name]) for name in kept)
    moved = torch.cat([(sent[name] - received[name]).flatten() for name in sent if name not in kept])
    assert float(moved.std()) == pytest.approx(NOISE, rel=0.1)


def push(grid: Grid, mode: str, nodes: Sequence[int], ttl: float = 3600.0) -> set[str]:
    """Send each node a message that lives for so many seconds, and return their ids."""
    messages = [Message(site.content(mode), dst_node_id=node, message_type="train", ttl=ttl) for node in nodes]
    return set(grid.push_messages(messages))


def pulled(grid: Grid, waiting: set[str]) -> list[Message]:
    """Return the replies to messages.

    A SuperNode gives up a guard that has been silent for a minute. One that was killed when it had fetched a message
    and begun nothing is followed by another one, which falls silent in its place: that makes some 135 seconds.
    """
    replies: list[Message] = []

    def are_all_here() -> bool:
        answered = {reply.metadata.reply_to_message_id for reply in replies}
        replies.extend(grid.pull_messages(list(waiting - answered)))
        return len(replies) == len(waiting)

    await_so(are_all_here, f"replies to {len(waiting)} messages")
    return replies
