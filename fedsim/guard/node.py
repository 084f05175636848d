"""Client of the SuperNode's Runtime API, as `flower-superexec` and `flwr-clientapp` use it.

A SuperNode gives a message to a single process, and sends an error if this process falls silent. In Flower's own order
of calls, a process may end at three moments at which the SuperNode forgets the message and its server waits forever.
The order of calls in this module avoids all three:

- A message is fetched before its task is begun: no error is ever sent for a message begun and not fetched.
- The parts of a reply come before the reply: for parts that are missing a SuperNode waits for ever.
- No message is fetched while the SuperNode may still give up a task that was answered and not ended: its error would go
  to the current message of the run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
from flwr.app import Message

from fedsim.core.errors import FedsimError
from fedsim.core.foreign.flower.messages import context_from_proto, message_to_proto
from fedsim.core.foreign.flower.runtime import (
    HEARTBEAT_DEFAULT_INTERVAL,
    HEARTBEAT_PATIENCE,
    AcquireTaskRequest,
    AcquireTaskResponse,
    HeartbeatSender,
    Node,
    ProtobufClientInterceptor,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    PushAppMessagesRequest,
    PushTaskOutputRequest,
    RetryInvoker,
    RuntimeHttpClient,
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SendTaskHeartbeatRequest,
    SubStatus,
    SuperExecAuthHttpInterceptor,
    TaskType,
    exponential,
    get_all_nested_objects,
    get_object_tree,
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
    no_object_id_recompute,
    pull_and_inflate_object_from_tree,
    push_objects,
    remove_content_from_message,
)
from fedsim.guard.policy import NodeTable
from fedsim.guard.running import AppTask

_PATIENCE = 20.0  # seconds for a SuperNode that is busy
_ARRIVAL, _POLL = 10.0, 0.5  # seconds in which a SuperNode that made a task has stored its message
_GIVEN_UP = (
    HEARTBEAT_PATIENCE * HEARTBEAT_DEFAULT_INTERVAL + 5.0
)  # seconds of silence, and some for the last beat's way
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"


class NodeTask:
    """A message that this process alone can answer.

    Attributes:
        order: the SuperNode's data for the message.
        is_known: whether it is for a ClientApp.
    """

    def __init__(self, client: RuntimeHttpClient, kind: str, order: AppTask) -> None:
        self._client = client
        self.is_known, self.order = kind == TaskType.CLIENT_APP, order
        self.is_ended = False

    def send(self, reply: Message) -> None:
        """Have a reply sent to the server, whole or not at all. The node's own state stays as it was."""
        received = self.order.message.metadata.message_id
        with no_object_id_recompute():
            self._push(reply, received)  # a message that the SuperNode has already: it accepts only the parts
            self._push(reply, reply.object_id)
        self._client.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.COMPLETED))
        self.is_ended = True

    def _push(self, reply: Message, identity: str) -> None:
        """Push a reply under an id, and the parts of it that the SuperNode does not have."""
        message = message_to_proto(remove_content_from_message(reply))
        message.metadata.message_id = identity
        pushed = PushAppMessagesRequest(messages_list=[message], message_object_trees=[get_object_tree(reply)])
        answer = self._client.PushMessages(pushed)
        push_objects(
            get_all_nested_objects(reply),
            make_push_object_fn_protobuf(
                self._client.PushObject,
                Node(node_id=reply.metadata.src_node_id),
                reply.metadata.run_id,
                answer.session_id,
            ),
            object_ids_to_push=set(answer.objects_to_push),
        )


class RuntimeApi:
    """Fetches messages from a SuperNode."""

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
        self._mark = _Mark(node.secret.with_name(f"{node.secret.name}.at-work"))

    def waits(self) -> bool:
        """Return whether a guard ended during a message, so that the SuperNode must first give up its task."""
        return self._mark.is_fresh()

    @contextmanager
    def next_task(self) -> Iterator[NodeTask | None]:
        """Yield the next message, which is this process's until the end of the block; None where none waits.

        Raises:
            FedsimError: the SuperNode does not accept this guard.
            httpx.HTTPError: it does not answer as expected.
        """
        claim = None if self.waits() else self._claim()
        if claim is None:
            yield None
            return
        self._mark.renew()
        token = RuntimeTokenHttpInterceptor(claim.token)
        retry = RetryInvoker(lambda: exponential(max_delay=2), httpx.TransportError, max_tries=None, max_time=_PATIENCE)
        with closing(self._client("flwr-clientapp", token, retry)) as client:
            heartbeat = HeartbeatSender(lambda: self._beat(client))
            heartbeat.start()
            task = None
            try:
                order = self._order(client)
                task = None if order is None else NodeTask(client, claim.task.type, order)
                yield task
            finally:
                heartbeat.stop()  # before the mark is removed, which a beat renews
                if task is not None and task.is_ended:
                    self._mark.remove()

    def _claim(self) -> AcquireTaskResponse | None:
        with closing(self._client("SuperExec", self._entry, None)) as client:
            try:
                claim = client.AcquireTask(AcquireTaskRequest(supported_task_types=list(TaskType)))
            except httpx.HTTPStatusError as error:
                raise self._not_accepted(error) from error
        return claim if claim.token else None

    def _order(self, client: RuntimeHttpClient) -> AppTask | None:
        """Begin a task, and return its data; None if a killed guard has fetched its message already.

        Such a task is begun nevertheless: the SuperNode then sends an error because of its silence.
        """
        deadline = time.monotonic() + _ARRIVAL
        while not (fetched := client.PullMessages(PullAppMessagesRequest())).messages_list:
            if time.monotonic() >= deadline:
                break
            time.sleep(_POLL)
        self._mark.renew()
        given = client.PullTaskInput(PullTaskInputRequest())
        if not fetched.messages_list:
            return None
        (tree,), node = fetched.message_object_trees, Node(node_id=given.context.node_id)
        message = pull_and_inflate_object_from_tree(
            tree,
            make_pull_object_fn_protobuf(client.PullObject, node, given.run.run_id),
            make_confirm_message_received_fn_protobuf(client.ConfirmMessageReceived, node, given.run.run_id),
            return_type=Message,
        )
        message.metadata.__dict__["_message_id"] = tree.object_id  # which is no part of it
        return AppTask(message, context_from_proto(given.context), given.run.series_id, given.fab.content)

    def _beat(self, client: RuntimeHttpClient) -> bool:
        """Send a heartbeat; Flower's own function would interrupt the guard after a run was stopped."""
        self._mark.renew()
        try:
            client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
        except httpx.HTTPError:
            return False
        return True

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


class _Mark:
    """A file that exists during a message, touched at every heartbeat: it shows how a guard ended."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def renew(self) -> None:
        try:
            self._path.touch(0o600)
        except OSError as error:
            raise FedsimError(
                f"cannot write {self._path}: {error.strerror}. The guard records there the "
                "message in progress. Allow its user to write in the folder of node.secret."
            ) from error

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)

    def is_fresh(self) -> bool:
        """Return whether the SuperNode may still consider the task active; a time in the future counts as stale."""
        try:
            age = time.time() - self._path.stat().st_mtime
        except FileNotFoundError:
            return False
        return 0 <= age < _GIVEN_UP
