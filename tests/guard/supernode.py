"""A SuperNode in this process: Flower's own state, handlers and loop, a clock that tests move, and guards that die."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from queue import Empty, Queue
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.app import Message, Metadata, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.corestate import in_memory_corestate
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supercore.run import Run
from flwr.supercore.servicer.runtime import runtime_handlers as core_handlers
from flwr.supernode import start_client_internal as loop
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState
from flwr.supernode.servicer.runtime import runtime_handlers

from fedsim.guard import node
from fedsim.guard.policy import NodeTable
from tests.guard import site

RUN, NODE = 5, 7
STEP = 5  # seconds by which the clock moves at once
BEAT = 20  # seconds between a guard's beats
_PATIENCE = 20.0  # real seconds that a step of the loop may take on a busy machine
HANDLERS: dict[str, Callable[..., Any]] = {
    "PullTaskInput": runtime_handlers.pull_task_input,
    "PullMessages": runtime_handlers.pull_messages,
    "PullObject": runtime_handlers.pull_object,
    "ConfirmMessageReceived": runtime_handlers.confirm_message_received,
    "PushMessages": runtime_handlers.push_messages,
    "PushObject": runtime_handlers.push_object,
    "PushTaskOutput": runtime_handlers.push_task_output,
}


class Killed(BaseException):
    """A guard got SIGKILL: nobody hears what it would have said next."""


class _Ended(BaseException):
    """The test is over, and the SuperNode with it."""


class SuperNode:
    """A node whose server is the test.

    Attributes:
        seconds: by which the clock was moved.
        replies: what the server got, each once all of it has come.
    """

    def __init__(self, folder: Path) -> None:
        self.seconds, self.replies = 0, list[Message]()
        self.table = NodeTable(address="127.0.0.1:9", secret=folder / "secret")
        self.table.secret.write_bytes(b"s" * 32)
        self._folder = folder
        self.state = InMemoryNodeState(InMemoryObjectStore())
        self.state.set_node_id(NODE)
        self.beats: list[Callable[[], bool]] = []  # of guards that live
        self._sent, self._contents = Queue[Message](), dict[str, bytes]()
        self._coming: dict[str, tuple[Message, set[str]]] = {}  # replies by session, and what of them is missing
        self._looks, self._looked = 0, threading.Condition()
        self._fab, self._is_over, self._has_come = Fab("", site.archive(), {}), threading.Event(), threading.Event()

    def ask(self) -> str:
        """Have the server send a message, wait until it has come, and return its id."""
        message = self.send()
        assert self._has_come.wait(_PATIENCE)  # a SuperNode that waits for an answer takes no other message
        return message

    def send(self) -> str:
        """Have the server send a message, and return its id."""
        metadata = Metadata(RUN, "", 1, NODE, "", "3", time.time(), 3600.0, "train")
        message = Message(site.content(), metadata=metadata)  # pyright: ignore[reportCallIssue]
        message.metadata.__dict__["_message_id"] = message.object_id
        self._has_come.clear()
        self._sent.put(message)
        return message.metadata.message_id

    def answers(self, identity: str) -> list[Message]:
        """Return the replies to a message."""
        return [reply for reply in self.replies if reply.metadata.reply_to_message_id == identity]

    def now(self) -> datetime:
        return datetime.fromtimestamp(time.time() + self.seconds).astimezone()

    def pass_time(self, seconds: int) -> None:
        """Move the clock, and with it the age of files that guards left; guards that live send their beats."""
        for _ in range(seconds // STEP):
            self.seconds += STEP
            for path in self._folder.iterdir():
                times = path.stat()
                os.utime(path, (times.st_atime - STEP, times.st_mtime - STEP))
            if self.seconds % BEAT == 0:
                for beat in self.beats:
                    beat()
            self._let_look()

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join()

    def handle(self, name: str, token: str, request: Any) -> Any:
        """Answer a call as Flower's router does."""
        if name == "AcquireTask":
            return core_handlers.acquire_task(request, self.state)
        task = self.state.get_task_by_token(token)
        if task is None:
            response = httpx.Response(401, text="no", request=httpx.Request("POST", "http://127.0.0.1:9"))
            raise httpx.HTTPStatusError("no", request=response.request, response=response)
        if name == "SendTaskHeartbeat":
            return core_handlers.send_task_heartbeat(request, self.state, task)
        return HANDLERS[name](request, self.state, task)

    def _let_look(self) -> None:
        """Wait until the loop has seen what time it is, and done what is to be done then."""
        with self._looked:
            enough = self._looks + 2  # it may be past the first look already
            assert self._looked.wait_for(lambda: self._looks >= enough, _PATIENCE)

    def sleep(self, _seconds: float) -> None:
        """Go on at once, as the loop does where it has nothing to do."""
        with self._looked:
            self._looks += 1
            self._looked.notify_all()
        if self._is_over.wait(0.001):
            raise _Ended

    def _run(self) -> None:
        """Do as a SuperNode's loop does: the next message is fetched when the one before was answered."""
        fetch = (
            lambda *_: self._run_info(),
            lambda *_: self._fab,
            lambda _run, key: self._contents[key],
            lambda *_: self._has_come.set(),
        )
        try:
            while True:
                store = self.state.object_store
                if loop._pull_and_store_message(self.state, store, {}, self._receive, *fetch, None) is None:
                    self.sleep(3.0)
                else:
                    loop._push_messages(self.state, store, self._send, self._push_object)
        except _Ended:
            pass

    def _receive(self) -> tuple[Message, ObjectTree] | None:
        try:
            message = self._sent.get_nowait()
        except Empty:
            return None
        with no_object_id_recompute():
            self._contents |= {key: each.deflate() for key, each in get_all_nested_objects(message).items()}
            return remove_content_from_message(message), get_object_tree(message)

    def _run_info(self) -> Run:
        info = Run.create_empty(RUN)
        info.fab_hash = self.state.store_fab(self._fab)
        return info

    def _send(self, message: Message, tree: ObjectTree, _seconds: float) -> tuple[set[str], str]:
        session = message.metadata.message_id
        self._coming[session] = message, {each.object_id for each in iterate_object_tree(tree)}
        return set(self._coming[session][1]), session

    def _push_object(self, _run: int, session: str, key: str, _content: bytes) -> None:
        message, missing = self._coming[session]
        missing.remove(key)
        if not missing:
            self.replies.append(message)


class Guard:
    """A guard that is killed once the SuperNode has heard a call of it so many times.

    Args:
        supernode: from which it takes messages.
        last: the call after which it is killed, '' where it lives.
        times: which of the calls by this name is the last.
    """

    def __init__(self, supernode: SuperNode, last: str = "", times: int = 1) -> None:
        self.supernode, self.last, self.times = supernode, last, times
        self.is_dead, self.lock = False, threading.Lock()  # parts of messages are sent by several threads
        self.api = node.RuntimeApi(supernode.table)

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Have the guard's file speak to this SuperNode, by its clock."""
        supernode = self.supernode

        def client(*_: object, interceptors: list[Any], **__: object) -> _Client:
            return _Client(self, getattr(interceptors[-1], "_token", ""))

        def sleep(_seconds: float) -> None:
            supernode.pass_time(STEP)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(node.RuntimeHttpClient, "from_server_address", client)
            patch.setattr(node, "HeartbeatSender", lambda beat: _Beats(supernode, beat))
            clock = SimpleNamespace(sleep=sleep, time=time.time, monotonic=lambda: supernode.seconds)
            patch.setattr(node, "time", clock)
            yield

    def answer(self, seconds: int = 0) -> bool:
        """Answer the next message after so many seconds, and return whether there was one."""
        with self.speaking(), self.api.next_task() as task:
            if task is None:
                return False
            self.supernode.pass_time(seconds)
            task.send(Message(RecordDict(dict(task.order.message.content)), reply_to=task.order.message))
            return True


class _Client:
    """What a guard says, in place of HTTP."""

    def __init__(self, guard: Guard, token: str) -> None:
        self._guard, self._token = guard, token

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        return lambda request: self._say(name, request)

    def close(self) -> None:
        pass

    def _say(self, name: str, request: Any) -> Any:
        guard = self._guard
        if name == "SendTaskHeartbeat":
            return guard.supernode.handle(name, self._token, request)
        with guard.lock:
            if guard.is_dead:
                raise Killed
            answer = guard.supernode.handle(name, self._token, request)
            if name == guard.last and (name != "AcquireTask" or answer.token):
                guard.times -= 1
                guard.is_dead = guard.times == 0
            if guard.is_dead:
                raise Killed
            return answer


class _Beats:
    """Beats by the clock that the test moves."""

    def __init__(self, supernode: SuperNode, beat: Callable[[], bool]) -> None:
        self._beats, self._beat = supernode.beats, beat

    def start(self) -> None:
        self._beat()
        self._beats.append(self._beat)

    def stop(self) -> None:
        self._beats.remove(self._beat)


@contextmanager
def supernode_in(folder: Path) -> Iterator[SuperNode]:
    """Yield a SuperNode with its secret in a folder."""
    supernode = SuperNode(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_memory_corestate, "now", supernode.now)
        patch.setattr(loop, "time", SimpleNamespace(sleep=supernode.sleep))
        with supernode.running():
            yield supernode
