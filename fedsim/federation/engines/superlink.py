"""Real Flower nodes: a SuperLink and SuperNodes, started on 127.0.0.1 or already running elsewhere.

The SuperLink runs with ``--isolation process``: it leaves the ServerApp to an external process, this one. The
ServerApp's observations thus stay in memory, and its exceptions are raised here as on the local engine.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import httpx
from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import ServerApp

from fedsim.core.errors import FedsimError
from fedsim.core.foreign.flower.app_files import build_fab_from_files
from fedsim.core.foreign.flower.in_process import Run, TaskIdentity
from fedsim.core.foreign.flower.runtime import (
    AcquireTaskRequest,
    HeartbeatSender,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    RetryInvoker,
    RuntimeHttpClient,
    RuntimeVersionHttpInterceptor,
    SendTaskHeartbeatRequest,
    SubStatus,
    TaskType,
    exponential,
)
from fedsim.core.foreign.flower.superlink import (
    SUPERLINK_NODE_ID,
    ControlHttpClient,
    ErrorCode,
    Fab,
    HttpGrid,
    StartRunRequest,
    fab_to_proto,
    user_config_to_proto,
)
from fedsim.federation import apps
from fedsim.processes.child_process import ChildProcess
from fedsim.processes.reaper import remove_if_killed
from fedsim.scenario.clients import Federation
from fedsim.scenario.world import World

_HOST = "127.0.0.1"
_POLL_INTERVAL = 0.2
_START_TIMEOUT = 60.0
_HANDOVER_TIMEOUT = 15.0
_RECONNECT_TIMEOUT = 20.0
_LOG_LINES = 15

_APP = f"""\
[project]
name = "fedsim-run"
version = "1.0.0"

[tool.flwr.app]
publisher = "fedsim"

[tool.flwr.app.components]
serverapp = "fedsim.federation.engines.worker:server"
clientapp = "fedsim.federation.engines.worker:client"

[tool.flwr.app.config]
{apps.SCENARIO_KEY} = ""
"""


def serve(world: World, server: ServerApp, nodes: int, check_cancelled: Callable[[], None] = lambda: None) -> None:
    """Run a ServerApp in this process, with clients on real nodes.

    Args:
        world: world of a scenario, which is sent to the nodes; fedsim and the data are installed there.
            `federation.address` is host and port of a running SuperLink with its own nodes, and
            `federation.certificates` the file of the authority of its certificate; without an address a SuperLink and
            one SuperNode per client are started on this machine for the run.
        server: the ServerApp.
        nodes: number of clients.
        check_cancelled: called while waiting; raises KeyboardInterrupt after a stop request.

    Raises:
        FedsimError: no SuperLink answers, it died, or a node died before the training. Exceptions of the ServerApp are
            raised unchanged.
    """
    federation, text = world.scenario.federation, world.scenario.model_dump_json()
    theirs = _connect_deployment(federation, check_cancelled) if federation.address else None
    with theirs or _start(nodes, check_cancelled) as deployment:
        try:
            run_id = _submit(deployment, text)
            with _serve_run(deployment, run_id) as grid:
                context = Context(
                    run_id=run_id,
                    node_id=SUPERLINK_NODE_ID,
                    node_config={},
                    state=RecordDict(),
                    run_config={},
                )
                server(grid=grid, context=context)
        except httpx.HTTPError as error:
            deployment.check_link()
            raise FedsimError(
                f"the SuperLink at {deployment.address} does not answer as expected: "
                f"{_reason(error)}. Check its log, or start a SuperLink; docs/federation.md has "
                "the commands."
            ) from error


@dataclass(frozen=True)
class _Process:
    """A Flower program with its log."""

    name: str
    log: Path
    child: ChildProcess

    @classmethod
    def start(cls, name: str, arguments: list[str], folder: Path) -> _Process:
        folder.mkdir()
        scripts = sysconfig.get_path("scripts")
        environment = {
            **os.environ,
            "FLWR_HOME": str(folder),
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": str(_POLL_INTERVAL),
            "PATH": os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)]),
            "PYTHONPATH": os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path),
        }
        log = folder / "log.txt"
        with log.open("wb") as output:
            child = ChildProcess(
                [os.path.join(scripts, arguments[0]), *arguments[1:]],
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return cls(name, log, child)

    def is_alive(self) -> bool:
        return self.child.code is None

    def check(self) -> None:
        if self.is_alive():
            return
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
        raise FedsimError(f"{self.name} ended with exit code {self.child.code}. The end of its log:\n{tail}")


class _Encryption(TypedDict):
    insecure: bool
    root_certificates: bytes | None


@dataclass
class _Deployment:
    """A SuperLink's address and certificate authority, and the processes started by this engine."""

    address: str
    check_cancelled: Callable[[], None] = lambda: None
    link: _Process | None = None
    nodes: list[_Process] = field(default_factory=list)
    certificates: bytes | None = None

    @property
    def encryption(self) -> _Encryption:
        """Encryption arguments of Flower's clients."""
        return {"insecure": self.certificates is None, "root_certificates": self.certificates}

    def check_link(self) -> None:
        """Raise if the SuperLink started here has died."""
        if self.link is not None:
            self.link.check()

    def pause(self) -> None:
        """Sleep for a poll interval; raise after a stop request or if the SuperLink has died."""
        self.check_cancelled()
        self.check_link()
        time.sleep(_POLL_INTERVAL)

    def check(self) -> None:
        """Raise after a stop request or if a process started here has died."""
        self.check_cancelled()
        self.check_link()
        for node in self.nodes:
            node.check()

    def stop(self) -> None:
        """End all processes started here at the same time."""
        processes = [process.child for process in (self.link, *self.nodes) if process is not None]
        for child in processes:
            child.terminate()
        for child in processes:
            child.close()


def _connect_deployment(
    federation: Federation, check_cancelled: Callable[[], None]
) -> contextlib.nullcontext[_Deployment]:
    """Return the deployment of a running SuperLink, which stays running afterwards."""
    assert federation.address is not None
    certificates = None
    if federation.certificates is not None:
        try:
            certificates = Path(federation.certificates).read_bytes()
        except OSError as error:
            raise FedsimError(
                f"federation.certificates: cannot read {federation.certificates}: {error.strerror}. Expected the PEM "
                "file that the SuperLink has as --ssl-ca-certfile."
            ) from error
    return contextlib.nullcontext(_Deployment(federation.address, check_cancelled, certificates=certificates))


@contextmanager
def _start(clients: int, check_cancelled: Callable[[], None]) -> Iterator[_Deployment]:
    """Start a SuperLink and one SuperNode per client; end them and remove their files afterwards in all cases."""
    with tempfile.TemporaryDirectory(prefix="fedsim-") as name, remove_if_killed(Path(name)):
        folder = Path(name)
        port, *node_ports = _free_ports(clients + 1)
        deployment = _Deployment(f"{_HOST}:{port}", check_cancelled)
        try:
            link = ["flower-superlink", "--insecure", "--isolation", "process", "--host", _HOST, "--port", str(port)]
            deployment.link = _Process.start("the SuperLink", link, folder / "superlink")
            _await_port(deployment, port)
            for client, node_port in enumerate(node_ports):
                node = ["flower-supernode", "--insecure", "--superlink", deployment.address]
                node += ["--host", _HOST, "--port", str(node_port)]
                node += ["--node-config", f"partition-id={client} num-partitions={clients}"]
                started = _Process.start(f"the SuperNode of client {client}", node, folder / f"supernode-{client}")
                deployment.nodes.append(started)
            yield deployment
        finally:
            deployment.stop()


def _await_port(deployment: _Deployment, port: int) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while True:
        with contextlib.suppress(OSError), socket.create_connection((_HOST, port), timeout=1.0):
            return
        if time.monotonic() > deadline:
            raise FedsimError(f"the SuperLink did not open port {port} within {_START_TIMEOUT:g} seconds.")
        deployment.pause()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind((_HOST, 0))
        return [listener.getsockname()[1] for listener in sockets]


def _submit(deployment: _Deployment, scenario_json: str) -> int:
    """Register a run with an app that contains only the names of fedsim's two apps; return the run id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # raised by a dependency of Flower
        content, _ = build_fab_from_files({"pyproject.toml": _APP.encode()})
    request = StartRunRequest(
        fab=fab_to_proto(Fab(hashlib.sha256(content).hexdigest(), content, {})),
        override_config=user_config_to_proto({apps.SCENARIO_KEY: scenario_json}),
    )
    client = ControlHttpClient.from_server_address(
        deployment.address, interceptors=[RuntimeVersionHttpInterceptor("flwr CLI")], **deployment.encryption
    )
    with contextlib.closing(client):
        response = client.StartRun(request)
    if not response.HasField("run_id"):
        raise FedsimError(f"the SuperLink at {deployment.address} refused the run. Its log says why.")
    return response.run_id


@contextmanager
def _serve_run(deployment: _Deployment, run_id: int) -> Iterator[_NodeGrid]:
    """Acquire the run's ServerApp task from the SuperLink, and report its outcome."""
    grid = _NodeGrid(deployment, _acquire(deployment, run_id))
    heartbeat = HeartbeatSender(grid.beat)
    try:
        grid.begin(run_id)
        heartbeat.start()
        yield grid
        grid.finish(SubStatus.COMPLETED, "")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            deployment.stop()  # before the report: on a busy machine an answer of the SuperLink may take half a minute
        with contextlib.suppress(httpx.HTTPError):
            grid.finish(SubStatus.FAILED, str(error))
        raise
    finally:
        if heartbeat.is_running:
            heartbeat.stop()
        grid.close()


def _acquire(deployment: _Deployment, run_id: int) -> str:
    """Return the token of the run's ServerApp task."""
    address = deployment.address
    client = RuntimeHttpClient.from_server_address(
        address, interceptors=[RuntimeVersionHttpInterceptor("SuperExec")], **deployment.encryption
    )
    deadline = time.monotonic() + _HANDOVER_TIMEOUT
    with contextlib.closing(client):
        while time.monotonic() < deadline:
            answer = client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP]))
            if answer.token and answer.task.run_id != run_id:
                raise FedsimError(
                    f"run {answer.task.run_id} was waiting at the SuperLink at {address} and is lost now. "
                    "Use a SuperLink that serves fedsim alone, and run again."
                )
            if answer.token:
                return answer.token
            deployment.pause()
    raise FedsimError(
        f"the SuperLink at {address} did not hand over the run within {_HANDOVER_TIMEOUT:g} seconds. "
        "Start it with --isolation process."
    )


class _NodeGrid(HttpGrid):
    """Flower's grid, changed so that every reply has its node as sender, and a dead SuperLink is an error.

    For an unavailable node the SuperLink replies as itself, so that the client would be unknown.
    """

    def __init__(self, deployment: _Deployment, token: str) -> None:
        super().__init__(deployment.address, token=token, **deployment.encryption)
        self._deployment = deployment
        # Flower's own retry invoker would interrupt this process after the run was stopped.
        self._retry_invoker = RetryInvoker(
            lambda: exponential(max_delay=2),
            httpx.TransportError,
            max_tries=None,
            max_time=_RECONNECT_TIMEOUT,
            should_giveup=lambda _error: deployment.link is not None and not deployment.link.is_alive(),
        )

    def begin(self, run_id: int) -> None:
        """Report that the ServerApp is running."""
        task = self._runtime_client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = task.task_id, run_id, SUPERLINK_NODE_ID
        self.set_run(Run.create_empty(run_id))

    def beat(self) -> bool:
        """Send a heartbeat; return whether it arrived."""
        try:
            self._runtime_client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
        except httpx.HTTPError:
            return False
        return True

    def finish(self, status: str, details: str) -> None:
        """Report the outcome, without retries if the SuperLink is gone."""
        self._retry_invoker.max_tries = 1
        self._runtime_client.PushTaskOutput(PushTaskOutputRequest(sub_status=status, details=details))

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the registered nodes."""
        self._deployment.check()
        return super().get_node_ids()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Return the replies received within `timeout` seconds."""
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        orders = list(messages)
        ids = list(self.push_messages(orders))
        waiting = {identity: message for identity, message in zip(ids, orders, strict=True) if identity}
        gone = Error(ErrorCode.NODE_UNAVAILABLE, "the SuperLink knows no such node any more")
        replies = [Message(gone, reply_to=m) for i, m in zip(ids, orders, strict=True) if not i]
        while waiting and time.monotonic() < deadline:
            for reply in self.pull_messages(list(waiting)):
                question = waiting.pop(reply.metadata.reply_to_message_id)
                is_from_node = reply.metadata.src_node_id == question.metadata.dst_node_id
                replies.append(reply if is_from_node else Message(reply.error, reply_to=question))
            if waiting:
                self._deployment.pause()
        return replies


def _reason(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"status {error.response.status_code}, {error.response.text}"
    return f"{type(error).__name__}: {error}"
