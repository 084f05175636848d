"""The SuperNode's Runtime API, as `flower-superexec` and `flwr-clientapp` use it. The only file that speaks it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import httpx
from flwr.app import Message
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from fedsim.core.errors import FedsimError
from fedsim.guard.policy import NodeTable
from fedsim.guard.running import Order

_PATIENCE = 20.0  # seconds for a SuperNode that is busy
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"


class NodeTask:
    """A message that was handed to this process: no other one can answer it.

    Attributes:
        order: what the SuperNode hands over.
        is_known: whether it is for a ClientApp.
    """

    def __init__(self, client: RuntimeHttpClient, kind: str) -> None:
        self._client = client
        self.is_known = kind == TaskType.CLIENT_APP
        message, context, run, fab = pull_task_input(client)
        self._context = context
        self.order = Order(message, context, run.series_id, fab.content)

    def send(self, reply: Message) -> None:
        """Have a reply sent to the server. The node's own state stays as it was."""
        push_message(self._client, reply, self._context)
        push_task_output(self._client, self._context, SubStatus.COMPLETED, "")


class RuntimeApi:
    """Takes messages from a SuperNode."""

    def __init__(self, node: NodeTable) -> None:
        self._address = node.address
        try:
            secret = node.secret.read_bytes()
        except OSError as error:
            raise FedsimError(
                f"cannot read node.secret {node.secret}: {error.strerror}. Make it with: "
                f"(umask 077; openssl rand -hex 32 > {node.secret}), and start flower-supernode with "
                f"--superexec-auth-secret-file {node.secret}."
            ) from error
        self._entry = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={_ACQUIRE})

    @contextmanager
    def next_task(self) -> Iterator[NodeTask | None]:
        """Yield the next message, which is this process's until the end of the block; None where none waits.

        Raises:
            FedsimError: the SuperNode does not accept this guard.
            httpx.HTTPError: it does not answer as expected.
        """
        with closing(self._client("SuperExec", self._entry, None)) as client:
            try:
                answer = client.AcquireTask(AcquireTaskRequest(supported_task_types=list(TaskType)))
            except httpx.HTTPStatusError as error:
                raise self._not_accepted(error) from error
        if not answer.token:
            yield None
            return
        token = RuntimeTokenHttpInterceptor(answer.token)
        retry = RetryInvoker(lambda: exponential(max_delay=2), httpx.TransportError, max_tries=None, max_time=_PATIENCE)
        with closing(self._client("flwr-clientapp", token, retry)) as client:
            heartbeat = HeartbeatSender(lambda: _beat(client))
            heartbeat.start()
            try:
                yield NodeTask(client, answer.task.type)
            finally:
                heartbeat.stop()

    def _client(self, name: str, identity: ProtobufClientInterceptor, retry: RetryInvoker | None) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            self._address,
            insecure=True,
            root_certificates=None,
            interceptors=[RuntimeVersionHttpInterceptor(name), identity],
            retry_invoker=retry,
        )

    def _not_accepted(self, error: httpx.HTTPStatusError) -> FedsimError:
        return FedsimError(
            f"the SuperNode at {self._address} does not accept this guard: status {error.response.status_code}, "
            f"{error.response.text.strip()[:200]}. Start it with --isolation process --superexec-auth-secret-file and "
            "the file of node.secret, and with the same flwr version."
        )


def _beat(client: RuntimeHttpClient) -> bool:
    """Say that the app still runs; Flower's own function would interrupt the guard where a run was stopped."""
    try:
        client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
    except httpx.HTTPError:
        return False
    return True
