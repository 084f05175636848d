"""A site on this machine: a SuperLink, nodes, their guards, and an app that does as each message says."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from fedsim.core import supervisor
from fedsim.core.errors import FedsimError
from fedsim.federation.engines import superlink
from fedsim.guard import app_command
from fedsim.guard.policy import AppsTable

SECRET = "SECRET"
CLIENT = '''
"""An app that does not mean well, and has no mods. What a message's config says, it does."""

import ctypes
import json
import os
import socket
import struct
import subprocess
import time

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


def moved(record, by=0.01):
    return ArrayRecord({name: Array(array.numpy() + np.float32(by)) for name, array in record.items()})


def tried(deed):
    try:
        deed()
    except Exception as error:
        return type(error).__name__
    return "done"


def chmod_by_handle(path):
    handle = os.open(path, os.O_PATH)
    os.chmod(f"/proc/self/fd/{handle}", 0o600)


def system_call(number, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")


def writable_again(path):  # in another process, since it stays in the namespaces that it enters
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0
        return
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.unshare(0x10020000)  # a user and a mount namespace of its own
        system_call(442, -100, b"/", 0x8000, struct.pack("<4Q", 0, 1, 0, 0), ctypes.c_size_t(32))
        os.chmod(path, 0o600)
    except BaseException:
        os._exit(1)
    os._exit(0)


def deeds(places):  # they harm nothing where nothing stops them
    parent = os.getppid()
    return {
        "network": tried(lambda: socket.create_connection(("127.0.0.1", places["port"]), 2)),
        "datagrams": tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9))),
        "ledger": tried(lambda: open(places["ledger"], "ab")),
        "key": tried(lambda: open(places["key"], "rb")),
        "mode of the ledger": tried(lambda: os.chmod(places["ledger"], 0o600)),
        "mode of the key": tried(lambda: os.chmod(places["key"], 0o600)),
        "mode of the policy": tried(lambda: os.chmod(places["policy"], 0o600)),
        "mode by a handle": tried(lambda: chmod_by_handle(places["ledger"])),
        "mode of the folder": tried(lambda: os.chmod(os.path.dirname(places["ledger"]), 0o700)),
        "mode of its data": tried(lambda: os.chmod(places["data"], 0o600)),
        "owner of the ledger": tried(lambda: os.chown(places["ledger"], os.getuid(), -1)),
        "times of the key": tried(lambda: os.utime(places["key"])),
        "attribute of the policy": tried(lambda: os.setxattr(places["policy"], "user.mark", b"1")),
        "mode after undoing the mounts": tried(lambda: writable_again(places["ledger"])),
        "guard": tried(lambda: open(f"/proc/{places['guard']}/environ", "rb")),
        "end the guard": tried(lambda: os.kill(places["guard"], 0)),
        "arguments": tried(lambda: 1 / ("token" not in open("/proc/self/cmdline").read())),
        "files": tried(lambda: open("/etc/passwd").read()),
        "a program": tried(lambda: subprocess.run(["/bin/true"], check=True)),
        "shared memory": tried(lambda: os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR)),
        "its data": tried(lambda: open(places["data"]).read()),
        "empty its log": tried(lambda: os.ftruncate(2, 0)),
        "rewrite its log": tried(lambda: os.pwrite(2, b"x", 0)),
        "its folder": tried(lambda: open("notes", "w").write("x")),
        "mode in its folder": tried(lambda: os.chmod("notes", 0o600)),
    }


@app.train()
def train(message, context):
    record, config = message.content["arrays"], message.content["config"]
    count = context.state.setdefault("count", ConfigRecord({"calls": 0}))
    count["calls"] += 1
    mode = config["mode"]
    if mode == "report":  # what it could do, by its log, which no server reads
        print(json.dumps({**deeds(json.loads(config["places"])), "calls": count["calls"]}), flush=True)
    content = {"arrays": moved(record), "metrics": MetricRecord({"train_loss": 0.5, "num-examples": 77})}
    if mode == "metrics":
        content["metrics"] = MetricRecord({"SECRET": [float(x) for x in range(1000)]})
    if mode == "config":
        content["SECRET"] = ConfigRecord({"SECRET": b"SECRET"})
    if mode == "record":
        content["SECRET"] = ArrayRecord({"SECRET": Array(np.arange(9.0))})
    if mode == "names":
        content["arrays"] = ArrayRecord({"SECRET": Array(np.zeros(3, np.float32))})
    if mode == "types":
        content["arrays"] = ArrayRecord({n: Array(a.numpy().astype(np.int64)) for n, a in record.items()})
    if mode == "error":
        raise RuntimeError("SECRET")
    if mode == "print":
        os.write(1, b"x" * (3 << 20))
    if mode == "folders":  # 4,000 within each other
        for _ in range(4000):
            os.mkdir("below")
            os.chdir("below")
    if mode == "files":
        made = 0
        try:
            for made in range(30_000):
                open(f"{made}.txt", "w").close()
        except OSError:
            print("made", made, flush=True)
    if mode == "bytes":
        with open("large", "wb") as file:
            try:
                while True:
                    file.write(bytes(1 << 24))
            except OSError:
                print("wrote", os.fstat(file.fileno()).st_size, flush=True)
    if mode == "cache":
        kept = os.path.join(config["cache"], "kept")
        open(kept, "w").write("kept")
        os.chmod(kept, 0o640)
    if mode == "sleep":
        open("at work", "w").close()
        time.sleep(60)
    if mode == "death":
        os._exit(7)
    return Message(RecordDict(content), reply_to=message)


@app.evaluate()
def evaluate(message, context):
    if "config" in message.content and message.content["config"]["mode"] == "error":
        raise RuntimeError("SECRET")
    metrics = MetricRecord({"SECRET": 1.0, "count": 3, "list": [1.0, 2.0], "accuracy": 0.75})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
'''
PROJECT = {
    "project": {"name": "smuggler", "version": "1.0.0"},
    "tool": {
        "flwr": {
            "app": {
                "publisher": "stranger",
                "components": {"serverapp": "smuggler.client:app", "clientapp": "smuggler.client:app"},
            }
        }
    },
}
START = {"w": torch.zeros(40, 50), "b": torch.zeros(50)}
NOISE = 2.0  # standard deviation: clip 0.5 times noise multiplier 4


def has_walls() -> bool:
    """Return whether this machine can run apps in the sandbox."""
    try:
        app_command.check_sandbox(AppsTable(sha256="any"))
    except FedsimError:
        return False
    return True


needs_walls = pytest.mark.skipif(not has_walls(), reason="this machine has no Landlock or user namespaces")


def archive(mark: str = "") -> bytes:
    """Return the app as `flwr build` packs it; another mark makes another app."""
    files = {"pyproject.toml": tomli_w.dumps(PROJECT).encode(), "smuggler/__init__.py": b""}
    files["smuggler/client.py"] = f"{CLIENT}\n# {mark}\n".encode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a package that Flower uses
        return build_fab_from_files(files)[0]


def policy(folder: Path, port: int = 19000, **changes: Any) -> dict[str, Any]:
    """Return the tables of a site's policy; a change replaces a table's keys."""
    tables: dict[str, Any] = {
        "subject": "ward",
        "ledger": "ledger.jsonl",
        "key": "ledger.key",
        "node": {"address": f"127.0.0.1:{port}", "secret": "secret"},
        "budget": {"epsilon": 20.0, "delta": 1e-5},
        "apps": {"sha256": "any", "seconds": 500.0, "log": "app.log", "readable": ["data.txt"]},
        "defenses": [{"name": "local-dp", "clip": 0.5, "noise_multiplier": 4.0}],
    }
    for name, change in changes.items():
        tables[name] = {**tables.get(name, {}), **change} if isinstance(change, dict) else change
    folder.mkdir(exist_ok=True)
    (folder / "data.txt").write_text("the site's data")
    (folder / "guard.toml").write_text(tomli_w.dumps(tables))
    return tables


def content(mode: str = "", **config: str) -> RecordDict:
    """Return what a message to the app holds."""
    return RecordDict({"arrays": ArrayRecord(START), "config": ConfigRecord({"mode": mode, **config})})


def asking(mode: str, node: int, message_type: str = "train", **config: str) -> Message:
    """Return a message to a node's app, in the run of this process."""
    return Message(content(mode, **config), dst_node_id=node, message_type=message_type)


@dataclass
class Site:
    """A node and its guard, in a folder."""

    folder: Path
    link: str
    port: int
    options: list[str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def begin(self) -> None:
        (self.folder / "secret").write_bytes(os.urandom(32))
        command = ["flower-supernode", *self.options, "--superlink", self.link, "--isolation", "process"]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--superexec-auth-secret-file", "secret"]
        self.start("node", supervisor.command_of([str(Path(sys.executable).parent / command[0]), *command[1:]]))

    def start_guard(self) -> None:
        self.start("guard", [sys.executable, "-m", "fedsim", "guard", "run", "guard.toml"])

    def start(self, name: str, command: list[str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment(self.folder / name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def log(self, name: str) -> str:
        log = self.folder / f"{name}.log"
        return log.read_text(errors="replace") if log.exists() else ""


def environment(home: Path) -> dict[str, str]:
    temporary = home.parent / "tmp"
    for folder in (home, temporary):
        folder.mkdir(exist_ok=True)
    more = {
        "TMPDIR": str(temporary),
        "FLWR_HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "COLUMNS": "200",
    }
    return {**os.environ, **more, "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}


def certified(folder: Path) -> list[str]:
    """Make certificates as docs/federation.md says, and return a SuperLink's options for them."""
    subprocess.run(["sh", "-ec", documented("openssl")], cwd=folder, check=True, capture_output=True)
    names = {"--ssl-ca-certfile": "ca.pem", "--ssl-certfile": "server.pem", "--ssl-keyfile": "server.key"}
    return [word for option, name in names.items() for word in (option, str(folder / name))]


def register(folder: Path, address: str) -> None:
    """Make the keys of four nodes, and register them with a SuperLink, as docs/federation.md says."""
    variables = environment(folder / "cli")
    variables["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    (folder / "cli").rmdir()  # the commands make it
    commands = documented("for i in 0 1 2 3; do ssh-keygen").replace("127.0.0.1:18000", address)
    done = subprocess.run(
        ["sh", "-ec", commands], cwd=folder, env=variables, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def documented(begin: str) -> str:
    """Return the commands of docs/federation.md that begin so."""
    page = (Path(__file__).parents[2] / "docs" / "federation.md").read_text(encoding="utf-8")
    (commands,) = re.findall(rf"```sh\n({re.escape(begin)}.*?)```", page, re.DOTALL)
    return commands


class Federation:
    """A SuperLink with four sites, over TLS, which knows their keys; its server is the test."""

    def __init__(self, folder: Path) -> None:
        self.folder, ports = folder, superlink._free_ports(5)
        self.options, authority = certified(folder), folder / "ca.pem"
        self.deployment = superlink._Deployment(f"127.0.0.1:{ports[0]}", certificates=authority.read_bytes())
        encrypted = ["--root-certificates", str(authority), "--auth-supernode-private-key"]
        self.sites = [
            Site(folder / f"site-{number}", self.deployment.address, port, [*encrypted, str(folder / f"node-{number}")])
            for number, port in enumerate(ports[1:])
        ]

    def begin(self) -> None:
        port = self.deployment.address.rpartition(":")[2]
        link = ["flower-superlink", *self.options, "--enable-supernode-auth", "--isolation", "process"]
        link += ["--host", "127.0.0.1", "--port", port]
        self.deployment.link = superlink._Process.start("the SuperLink", link, self.folder / "link")
        superlink._await_port(self.deployment, int(port))
        register(self.folder, self.deployment.address)

    def close(self) -> None:
        for site in self.sites:
            for name in list(site.processes):
                site.kill(name)
        self.deployment.stop()

    @contextlib.contextmanager
    def run(self, fab: bytes) -> Iterator[superlink._NodeGrid]:
        """Yield the grid of a new run of an app."""
        request = StartRunRequest(fab=fab_to_proto(Fab(hashlib.sha256(fab).hexdigest(), fab, {})))
        client = ControlHttpClient.from_server_address(
            self.deployment.address,
            interceptors=[RuntimeVersionHttpInterceptor("flwr CLI")],
            **self.deployment.encryption,
        )
        with contextlib.closing(client):
            run_id = client.StartRun(request).run_id
        with superlink._serve_run(self.deployment, run_id) as grid:
            yield grid

    def await_nodes(self, grid: superlink._NodeGrid) -> list[int]:
        deadline = time.monotonic() + 600
        while len(nodes := list(grid.get_node_ids())) < len(self.sites):
            assert time.monotonic() < deadline, self.sites[0].log("node")
            time.sleep(0.2)
        return nodes
