"""The ServerApp and the ClientApp in Flower's message API, used on every engine.

The ServerApp and the clients in its process share a world. Another process receives the resolved scenario as JSON in
the run configuration, and builds its own world.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Protocol, cast, runtime_checkable

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedsim.core import seeding
from fedsim.core.errors import ClientRefusal, FedsimError, did_you_mean
from fedsim.core.foreign.flower.messages import ClientAppCallable
from fedsim.core.types import Tensors
from fedsim.federation import participation, secure_client
from fedsim.federation.client import local_training
from fedsim.federation.journal import ServerLog
from fedsim.federation.memory import begin, recall, remember
from fedsim.federation.secure_server import SecureSum
from fedsim.federation.server import AggregationStrategy, Nodes, failure_error, pack
from fedsim.privacy.history import spend
from fedsim.record import RoundRecord
from fedsim.scenario import Scenario
from fedsim.scenario.world import World, build

SCENARIO_KEY = "scenario"
QUESTION = "question"  # action of messages to a question's handlers, and the record with names of question and step
_START_TIMEOUT = 300.0
_POLL_INTERVAL = 0.1


@lru_cache(maxsize=2)
def build_world(scenario_json: str) -> World:
    """Return the world of a scenario received from another process; the last two are cached."""
    return build(Scenario.model_validate_json(scenario_json))


def sent_world(context: Context) -> World:
    """Return the world of the scenario in a run configuration."""
    return build_world(cast("str", context.run_config[SCENARIO_KEY]))


def client_app(world_of: Callable[[Context], World] = sent_world) -> ClientApp:
    """Return the ClientApp, which trains on request and reports its client number.

    Args:
        world_of: returns the client's world.
    """
    app = ClientApp()

    @app.train()
    @_or_why_not
    def train(message: Message, context: Context) -> Message:
        world, client = world_of(context), _client(context)
        order = cast("ConfigRecord", message.content["config"])
        round_, counted = cast("int", order["round"]), cast("int", order["counted"])
        begin(context.state, round_)
        fate = participation.client_failure(world.scenario, round_, client, world.data.steps(client))
        if fate is not None and fate.cause == "crash":
            raise RuntimeError(fate.why)
        if fate is not None:
            if not fate.is_absent:
                spend(context.state, world.facts.client_mechanisms)
            return Message(failure_error(fate), reply_to=message)
        memory = recall(context.state, counted)
        update, _private = local_training(world, _receive(message), round_, client, memory)
        spend(context.state, world.facts.client_mechanisms)
        remember(context.state, round_, memory)
        vector = world.models.layout.flat(update.tensors, update.buffers)
        if world.scenario.secure_aggregation is None:
            return Message(pack(vector, update.examples, update.loss), reply_to=message)
        summand = secure_client.summand(world, vector, update.examples, update.loss, round_, client)
        if summand is None:
            return Message(failure_error(secure_client.NOT_FINITE), reply_to=message)
        return Message(secure_client.upload(world, summand, client, message.content, context.state), reply_to=message)

    @app.query("client")
    def which(message: Message, context: Context) -> Message:
        return Message(RecordDict({"client": MetricRecord({"number": _client(context)})}), reply_to=message)

    for stage in secure_client.STAGES:
        app.query(stage)(_or_why_not(partial(_answer, world_of, stage)))
    app.query(QUESTION)(partial(_answer_question, world_of))
    app.train(QUESTION)(partial(_answer_question, world_of))
    return app


def server_app(world: World, journal: ServerLog) -> ServerApp:
    """Return the ServerApp of a world. It writes observed updates, rounds and the final weights to the journal."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        settings, spec = world.scenario.federation, world.data.dataset.spec
        server = AggregationStrategy if world.scenario.secure_aggregation is None else SecureSum
        strategy = server(world, nodes_of(grid, settings.clients), journal)

        def evaluate(round_: int, arrays: ArrayRecord) -> MetricRecord | None:
            if world.watches_models and round_ in world.scenario.threat.rounds:
                journal.model(round_, arrays.to_torch_state_dict())
            if round_ > 0:
                is_due = round_ % settings.evaluate_every == 0 or round_ == settings.rounds
                figures = evaluate_model(world, arrays.to_torch_state_dict()) if is_due else None
                journal.round(
                    RoundRecord(
                        round=round_,
                        cohort=strategy.tally.cohort,
                        participants=tuple(strategy.tally.participants),
                        failures=tuple(strategy.tally.failures),
                        training_loss=strategy.tally.training_loss,
                        test_metrics=dict(figures or {}),
                        tokens=None if spec.tokens is None else strategy.tally.examples * spec.tokens,
                    )
                )
            return None

        first = ArrayRecord(dict(world.models.first_weights))
        timeout = world.scenario.participation.timeout
        result = strategy.start(grid, first, num_rounds=settings.rounds, timeout=timeout, evaluate_fn=evaluate)
        final = result.arrays if len(result.arrays) else first
        journal.end(final.to_torch_state_dict())

    return app


@torch.no_grad()
def evaluate_model(world: World, weights: Tensors) -> Mapping[str, float]:
    """Return the global model's test metrics by name, the most informative first."""
    model, seed = world.models.load_weights(weights).eval(), world.scenario.seed
    with seeding.isolate_randomness(seeding.derive(seed, "evaluation")):  # some models are random in eval mode
        return world.task.evaluate(model, world.validation.reduced_dataset, seeding.generator(seed, "evaluation"))


def _or_why_not(answer: ClientAppCallable) -> ClientAppCallable:
    """Wrap a handler so that a refusal becomes a reply with its reason."""

    def answering(message: Message, context: Context) -> Message:
        try:
            return answer(message, context)
        except ClientRefusal as why:
            return Message(failure_error(participation.refusal_failure(str(why))), reply_to=message)

    return answering


def _answer(
    world_of: Callable[[Context], World], stage: secure_client.Stage, message: Message, context: Context
) -> Message:
    """Answer a stage of the masked protocol, or report a dropout before training."""
    world, client = world_of(context), _client(context)
    round_ = cast("int", message.content.config_records[secure_client.ROUND]["round"])
    fate = participation.client_failure(world.scenario, round_, client, world.data.steps(client))
    if fate is not None and fate.is_absent:
        return Message(failure_error(fate), reply_to=message)
    return Message(secure_client.answer_stage(stage, world, client, message.content, context.state), reply_to=message)


def _answer_question(world_of: Callable[[Context], World], message: Message, context: Context) -> Message:
    """Answer a question's own message by the question's handler.

    Raises:
        FedsimError: the scenario lacks the question, or the question has no such handler.
    """
    world, call = world_of(context), cast("ConfigRecord", message.content[QUESTION])
    name, step = cast("str", call["name"]), cast("str", call["step"])
    handlers = {question.name: question.message_handlers() for question in world.questions}
    if name not in handlers:
        raise FedsimError(f"the scenario does not ask the question '{name}'.{did_you_mean(name, handlers)}")
    if step not in handlers[name]:
        raise FedsimError(f"question '{name}' has no message '{step}'.{did_you_mean(step, handlers[name])}")
    content = handlers[name][step](world, _client(context), message.content, context.state)
    return Message(content, reply_to=message)


@runtime_checkable
class _KnowsItsNodes(Protocol):
    """A grid whose node ids follow from the client numbers."""

    @property
    def nodes(self) -> Nodes: ...


def nodes_of(grid: Grid, clients: int) -> Nodes:
    """Return the node id of every client number, by queries to the nodes: Flower's node ids are random and unordered.

    Raises:
        FedsimError: a node failed, or the client numbers are not unique and complete.
    """
    if isinstance(grid, _KnowsItsNodes):
        return grid.nodes
    questions = [
        Message(RecordDict({"config": ConfigRecord()}), dst_node_id=node, message_type="query.client")
        for node in _wait_for_nodes(grid, clients)
    ]
    nodes: dict[int, int] = {}
    for answer in grid.send_and_receive(questions, timeout=_START_TIMEOUT):
        if answer.has_error():
            raise FedsimError(f"a node cannot say which client it is: {answer.error.reason}")
        number = cast("int", answer.content.metric_records["client"]["number"])
        if number in nodes:
            raise FedsimError(f"two nodes say that they are client {number}. Give every node its own partition-id.")
        nodes[number] = answer.metadata.src_node_id
    missing = [client for client in range(clients) if client not in nodes]
    if missing:
        raise FedsimError(
            f"no node is client {missing[0]}, but the scenario has {clients} clients. Expected "
            f"a node for every partition-id from 0 to {clients - 1}."
        )
    return {client: nodes[client] for client in range(clients)}


def _wait_for_nodes(grid: Grid, clients: int) -> list[int]:
    """Wait until enough nodes have registered, because the ServerApp may start first."""
    deadline = time.monotonic() + _START_TIMEOUT
    while len(nodes := list(grid.get_node_ids())) < clients:
        if time.monotonic() > deadline:
            raise FedsimError(
                f"{len(nodes)} of {clients} nodes registered within {_START_TIMEOUT:g} seconds. "
                "Start the missing nodes, or lower federation.clients."
            )
        time.sleep(_POLL_INTERVAL)
    return nodes


class _Decoded:
    """Cache of the last decoded weights: all clients of a round receive the same weights.

    The key includes names, because two arms may start with equal values under other names.
    """

    def __init__(self) -> None:
        self._data: tuple[tuple[str, bytes], ...] = ()
        self._weights: Tensors = {}

    def weights(self, record: ArrayRecord) -> Tensors:
        data = tuple((name, array.data) for name, array in record.items())
        if data != self._data:
            self._data, self._weights = data, record.to_torch_state_dict()
        return self._weights


_weights_cache = _Decoded()


def _receive(message: Message) -> Tensors:
    return _weights_cache.weights(cast("ArrayRecord", message.content["arrays"]))


def _client(context: Context) -> int:
    return cast("int", context.node_config["partition-id"])
