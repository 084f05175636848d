"""Defenses as mods of an app that knows nothing of this project."""

import re
from itertools import count
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import fixedclipping_mod
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import nn

from fedsim.core import registry
from fedsim.core.errors import ClientRefusal, FedsimError
from fedsim.core.hooks import Defense, HookContext
from fedsim.core.types import Config, MethodDescription, Tensors
from fedsim.federation.engines.local import LocalGrid
from fedsim.federation.mods import as_mod
from fedsim.privacy.accounting import Spent, epsilon, gaussian_epsilon
from fedsim.privacy.history import spent

STEPS = 3
START = {"w": torch.zeros(2, 3), "b": torch.zeros(3)}
MOVED = {"w": torch.full((2, 3), 30.0), "b": torch.full((3,), 40.0)}


@pytest.fixture(autouse=True)
def _in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower makes messages only in a process that has a run."""
    for identity in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(f"flwr.supercore.task_identity.TaskIdentity.{identity}", 1)


def trained(weights: dict[str, torch.Tensor], node: int) -> dict[str, torch.Tensor]:
    """What somebody's own client does: a few steps on data of its own."""
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    model.load_state_dict(weights)
    numbers = torch.Generator().manual_seed(node)
    inputs, labels = torch.randn(8, 4, generator=numbers), torch.randint(3, (8,), generator=numbers)
    for _ in range(STEPS):
        gradients = torch.autograd.grad(nn.functional.cross_entropy(model(inputs), labels), tuple(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.sub_(0.1 * gradient)
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def final_weights(mods: list[Any], rounds: int = 2, clients: int = 2) -> dict[str, torch.Tensor]:
    """Run a plain Flower app, FedAvg and all, and return the last global weights."""
    app = ClientApp(mods=mods)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        weights = trained(message.content.array_records["arrays"].to_torch_state_dict(), context.node_id)
        metrics = MetricRecord({"num-examples": 8})
        return Message(RecordDict({"arrays": ArrayRecord(weights), "metrics": metrics}), reply_to=message)

    server, ends = ServerApp(), []

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        torch.manual_seed(0)
        first = ArrayRecord(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).state_dict())
        strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=clients, min_train_nodes=clients)
        result = strategy.start(grid, first, num_rounds=rounds)
        ends.append(result.arrays.to_torch_state_dict())

    LocalGrid(app, clients, {}).serve(server)
    return ends[0]


def test_a_defense_of_no_strength_leaves_somebodys_app_as_it_is() -> None:
    plain = final_weights([])
    defended = final_weights([as_mod("gradient-noise", scale=0.0, applies="per_update", seed=1)])
    for name, tensor in plain.items():
        torch.testing.assert_close(defended[name], tensor, rtol=0, atol=1e-6)


def test_clipping_is_what_flowers_own_mod_does_where_that_one_is_right() -> None:
    """Flower's mod leaves scalars and integers unclipped or fails on them; here all arrays are vectors or matrices."""
    numbers = torch.Generator().manual_seed(0)
    start = {"w": torch.randn(3, 4, generator=numbers), "b": torch.randn(3, generator=numbers)}
    answer = {"w": torch.randn(3, 4, generator=numbers), "b": torch.randn(3, generator=numbers)}
    ours = changed_by(as_mod("clipping", norm=0.5, applies="per_update"), start, answer)
    theirs = changed_by(fixedclipping_mod, start, answer)
    assert float(torch.cat([(ours[n] - start[n]).flatten() for n in start]).norm()) == pytest.approx(0.5, rel=1e-5)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor)


def changed_by(mod: Any, received: dict[str, torch.Tensor], answer: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return answer_of(mod, received, answer, Context(1, 7, {}, RecordDict(), {}))


def answer_of(
    mod: Any, received: dict[str, torch.Tensor], answer: dict[str, torch.Tensor], context: Context
) -> dict[str, torch.Tensor]:
    reply = reply_of(mod, received, RecordDict({"arrays": ArrayRecord(answer)}), context)
    return reply.content.array_records["arrays"].to_torch_state_dict()


def reply_of(mod: Any, received: dict[str, torch.Tensor], answer: RecordDict, context: Context) -> Message:
    content = RecordDict({"arrays": ArrayRecord(received), "config": ConfigRecord({"clipping_norm": 0.5})})
    message = Message(content, dst_node_id=7, message_type="train")
    return mod(message, context, lambda message, _context: Message(answer, reply_to=message))


def simulated(mods: list[Any], message_type: str, answer: RecordDict | str) -> tuple[Message, RecordDict]:
    """Ask the one client of a plain Flower app once; return its reply and what it keeps.

    Args:
        mods: of the app.
        message_type: of the message, which holds the weights `START`.
        answer: of the app; a text is what it fails with.
    """
    kept: list[RecordDict] = []

    def keeping(message: Message, context: Context, call_next: Any) -> Message:
        kept.append(context.state)
        return call_next(message, context)

    app = ClientApp(mods=[keeping, *mods])
    category, action = (*message_type.split("."), "default")[:2]

    @getattr(app, category)(action)
    def asked(message: Message, context: Context) -> Message:
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return Message(answer, reply_to=message)

    server, ends = ServerApp(), list[Message]()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        content = RecordDict({"arrays": ArrayRecord(START)})
        ends.extend(grid.send_and_receive([Message(content, dst_node_id=1, message_type=message_type)]))

    LocalGrid(app, 1, {}).serve(server)
    return ends[0], kept[0]


def test_scalars_are_clipped_integers_travel_as_they_are_and_an_unchanged_model_is_no_error() -> None:
    mod = as_mod("clipping", norm=1.0, applies="per_update")
    start = {"scale": torch.tensor(0.0), "seen": torch.tensor(3)}
    ours = changed_by(mod, start, {"scale": torch.tensor(100.0), "seen": torch.tensor(4)})
    assert float(ours["scale"]) == pytest.approx(1.0)
    assert ours["seen"] == torch.tensor(4)
    assert changed_by(mod, start, start) == start


NORMED = {
    "w": torch.zeros(2),
    "bn.running_mean": torch.tensor([1.0, -2.0]),
    "bn.running_var": torch.tensor([0.5, 3.0]),
    "bn.num_batches_tracked": torch.tensor(7),
}
TRAINED = {
    "w": torch.tensor([-6.0, 0.0]),
    "bn.running_mean": torch.tensor([1.0, -10.0]),
    "bn.running_var": torch.tensor([0.5, 3.0]),
    "bn.num_batches_tracked": torch.tensor(13),
}


@pytest.mark.parametrize("counter", [torch.tensor(7), torch.tensor(7.5, dtype=torch.float64)])
def test_a_private_mod_returns_counters_and_running_statistics_as_received(counter: torch.Tensor) -> None:
    """A mean of counters is a float, which the app may answer with an integer."""
    received = {**NORMED, "bn.num_batches_tracked": counter}
    sent = changed_by(as_mod("local-dp", clip=3.0, noise_multiplier=1e-6, seed=3), received, TRAINED)
    assert all(torch.equal(sent[name], received[name]) for name in received if name != "w")
    assert sent["w"].tolist() == pytest.approx([-3.0, 0.0], abs=1e-4)


def test_a_private_mod_clips_noised_statistics_with_the_weights_and_accounts_once() -> None:
    """The norm of the weights is 6, with the running mean 10."""
    mod = as_mod("local-dp", clip=5.0, noise_multiplier=1e-6, running_statistics="noised", seed=3)
    context = Context(1, 7, {}, RecordDict(), {})
    sent = answer_of(mod, NORMED, TRAINED, context)
    assert sent["w"].tolist() == pytest.approx([-3.0, 0.0], abs=1e-4)
    assert sent["bn.running_mean"].tolist() == pytest.approx([1.0, -6.0], abs=1e-4)
    assert not torch.equal(sent["bn.running_var"], NORMED["bn.running_var"])  # unmoved, so noise alone
    assert torch.equal(sent["bn.num_batches_tracked"], NORMED["bn.num_batches_tracked"])
    assert spent(context.state, "local-dp") == (Spent(5e-7, 1.0, 1),)


def test_a_private_mod_sends_nothing_of_a_message_without_weights() -> None:
    received = {name: tensor for name, tensor in NORMED.items() if name != "w"}
    reply = reply_of(
        as_mod("local-dp"), received, RecordDict({"arrays": ArrayRecord(received)}), Context(1, 7, {}, RecordDict(), {})
    )
    assert "holds no array that the guarantee covers" in (reply.error.reason or "")


def test_noise_is_never_used_twice_and_differs_between_nodes_and_runs() -> None:
    mod = as_mod("gradient-noise", scale=1.0, applies="per_update", seed=3)
    start = {"w": torch.zeros(50)}
    context = Context(1, 7, {}, RecordDict(), {})
    first, second = answer_of(mod, start, start, context)["w"], answer_of(mod, start, start, context)["w"]
    assert not torch.equal(first, second)
    for run, node, is_same in ((1, 7, True), (1, 8, False), (2, 7, False)):
        other = answer_of(mod, start, start, Context(run, node, {}, RecordDict(), {}))["w"]
        assert torch.equal(first, other) is is_same


def test_noise_without_a_seed_depends_on_all_that_the_operating_system_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a seed torch takes 32 bits alone, which a server could try out."""
    start, noise = {"w": torch.zeros(2000)}, []
    mod = as_mod("gradient-noise", scale=1.0, applies="per_update")
    for last in (b"0", b"0", b"1"):
        calls = count()
        monkeypatch.setattr(
            "os.urandom", lambda size, last=last, calls=calls: next(calls).to_bytes(size - 1, "little") + last
        )
        noise.append(answer_of(mod, start, start, Context(1, 7, {}, RecordDict(), {}))["w"])
    assert torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], noise[2])


def test_what_a_defense_remembers_lives_in_the_context_of_the_client() -> None:
    mod = as_mod("pruning", rate=0.5, error_feedback=True, applies="per_update", seed=3)
    context = Context(1, 7, {}, RecordDict(), {})
    start = {"w": torch.zeros(2)}
    moved = {"w": torch.tensor([3.0, 2.0])}
    assert answer_of(mod, start, moved, context)["w"].tolist() == [3.0, 0.0]
    assert answer_of(mod, start, moved, context)["w"].tolist() == [0.0, 4.0]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("gradient-noise", {}, 'Give the mod applies="per_update"'),
        ("soteria", {}, "works inside local training"),
        ("gradient-nois", {}, "gradient-noise"),
        ("clipping", {"norm": -1.0, "applies": "per_update"}, "norm"),
    ],
)
def test_a_mistake_is_said_when_the_mod_is_made(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(FedsimError, match=message):
        as_mod(name, **settings)


@pytest.mark.parametrize("message_type", ["train", "train.personal"])
def test_every_action_of_training_is_defended_and_accounted(message_type: str) -> None:
    answer = RecordDict({"arrays": ArrayRecord(MOVED)})
    clipped, _ = simulated([as_mod("clipping", norm=0.5, applies="per_update")], message_type, answer)
    sent = clipped.content.array_records["arrays"].to_torch_state_dict()
    assert float(torch.cat([sent[n].flatten() for n in START]).norm()) == pytest.approx(0.5, rel=1e-5)
    private, kept = simulated([as_mod("local-dp", noise_multiplier=2.0, seed=3)], message_type, answer)
    noisy = private.content.array_records["arrays"].to_torch_state_dict()
    # Clipped to norm 1, plus noise of deviation 2; a value that stays as it is is 30 or 40.
    assert all(float(tensor.abs().max()) < 20 for tensor in noisy.values())
    assert spent(kept, "local-dp") == (Spent(1.0, 1.0, 1),)


def test_a_private_defense_states_the_number_of_examples_itself() -> None:
    def answer() -> RecordDict:
        return RecordDict({"arrays": ArrayRecord(MOVED), "metrics": MetricRecord({"num-examples": 137})})

    private, _ = simulated([as_mod("local-dp", seed=3)], "train", answer())
    assert dict(private.content.metric_records["metrics"]) == {"num-examples": 1}
    open_, _ = simulated([as_mod("clipping", norm=1.0, applies="per_update")], "train", answer())
    assert dict(open_.content.metric_records["metrics"]) == {"num-examples": 137}


@pytest.mark.parametrize(
    ("message_type", "answer", "why"),
    [
        ("train", {"metrics": MetricRecord({"num-examples": 137, "train_loss": 0.3})}, "a metric that"),
        ("train", {"more": MetricRecord({"accuracy": [0.3, 0.4]})}, "a metric that"),
        ("train", {"more": ConfigRecord({"batch": b"1234"})}, "a config record, which"),
        ("train.personal", {"more": ArrayRecord(MOVED)}, "the reply must hold a single array record"),
        ("train", {"arrays": ArrayRecord({**MOVED, "b": torch.zeros(3, dtype=torch.float16)})}, "of a type that"),
        ("train", {"arrays": ArrayRecord({**MOVED, "b": torch.zeros(3, dtype=torch.int64)})}, "of a type that"),
        (
            "train",
            {"arrays": ArrayRecord({**MOVED, "b": torch.zeros(3, dtype=torch.complex64)})},
            "an array .* is complex",
        ),
        ("train", {"arrays": ArrayRecord({**MOVED, "b": torch.zeros(3, dtype=torch.float64)})}, "another type than"),
        ("train", {"arrays": ArrayRecord({**MOVED, "b": torch.zeros(137)})}, "an array .* has another shape than"),
        ("train", {"arrays": ArrayRecord({**MOVED, "c": torch.zeros(1)})}, "other names"),
        ("query", {}, "'query' is not empty"),
        ("evaluate.here", {}, "'evaluate.here' is not empty"),
        ("evaluate", {"arrays": MetricRecord({"accuracy": 0.5})}, "'evaluate' is not empty"),
        ("query", {"arrays": ConfigRecord({"labels": [1, 2]})}, "'query' is not empty"),
    ],
)
def test_behind_a_private_defense_nothing_is_sent_that_its_guarantee_does_not_cover(
    message_type: str, answer: dict[str, Any], why: str
) -> None:
    content = RecordDict({"arrays": ArrayRecord(MOVED), **answer})
    reply, kept = simulated([as_mod("local-dp", seed=3)], message_type, content)
    assert reply.has_error()
    assert not reply.has_content()
    reason = reply.error.reason or ""
    assert re.fullmatch(f"defense 'local-dp': .*{why}.*\\.", reason)
    assert "137" not in reason
    assert spent(kept, "local-dp") == ()


@pytest.mark.parametrize("message_type", ["query", "evaluate.here"])
def test_an_empty_answer_passes_a_private_defense_and_other_answers_pass_an_open_one(message_type: str) -> None:
    empty = RecordDict({"metrics": MetricRecord()})
    assert simulated([as_mod("local-dp", seed=3)], message_type, empty)[0].content == RecordDict()
    full = RecordDict({"arrays": ArrayRecord(MOVED), "metrics": MetricRecord({"accuracy": 0.5})})
    assert simulated([as_mod("clipping", norm=1.0, applies="per_update")], message_type, full)[0].content == full


@pytest.mark.parametrize("message_type", ["train", "query"])
def test_behind_a_private_defense_the_words_of_a_failing_app_stay_with_the_client(message_type: str) -> None:
    def answers_an_error(message: Message, _context: Context, _next: Any) -> Message:
        return Message(Error(1, "image 137 is broken"), reply_to=message)

    for mods in ([], [answers_an_error]):
        reply, _ = simulated([as_mod("local-dp", seed=3), *mods], message_type, "image 137 is broken")
        assert reply.error.reason == "defense 'local-dp': the app failed; the log of the client says why."
    plain, _ = simulated([as_mod("clipping", norm=1.0, applies="per_update")], message_type, "image 137 is broken")
    assert "image 137 is broken" in (plain.error.reason or "")


@pytest.mark.parametrize("setting", ["noise_multiplier", "clip", "target_epsilon"])
@pytest.mark.parametrize("value", [0.0, float("inf"), float("nan")])
def test_a_private_defense_without_finite_noise_is_no_mod(setting: str, value: float) -> None:
    settings: dict[str, Any] = {setting: value}
    with pytest.raises(FedsimError, match=setting):
        as_mod("local-dp", **settings)


def test_other_messages_and_failures_pass_and_foreign_arrays_are_refused() -> None:
    mod = as_mod("clipping", norm=1.0, applies="per_update")
    context = Context(1, 7, {}, RecordDict(), {})
    message = Message(RecordDict(), dst_node_id=7, message_type="query")
    assert mod(message, context, lambda message, _context: message) is message
    received = {"w": torch.zeros(2)}
    for arrays, why in (
        ({"v": torch.zeros(2)}, "other names"),
        ({"w": torch.zeros(2, 1)}, "another shape"),
        ({"w": torch.zeros(2, dtype=torch.complex64)}, "complex"),
    ):
        reply = reply_of(mod, received, RecordDict({"arrays": ArrayRecord(arrays)}), context)
        assert why in (reply.error.reason or "")
    empty = Message(RecordDict(), dst_node_id=7, message_type="train")
    assert "the server's message must hold a single array record" in (
        mod(empty, context, lambda message, _context: message).error.reason or ""
    )


def test_what_a_private_defense_has_cost_adds_up_in_the_context_of_the_client() -> None:
    mod = as_mod("local-dp", noise_multiplier=2.0, seed=3)
    start, context = {"w": torch.zeros(5)}, Context(1, 7, {}, RecordDict(), {})
    assert spent(context.state, "local-dp") == ()
    for calls in (1, 2, 3):
        answer_of(mod, start, start, context)
        assert spent(context.state, "local-dp") == (Spent(1.0, 1.0, 1),) * calls  # 2 over the sensitivity of 2S
    total = epsilon(spent(context.state, "local-dp"), 1e-5).value
    assert total == pytest.approx(gaussian_epsilon(3**0.5, 1e-5), rel=1e-3)
    answer_of(as_mod("clipping", norm=1.0, applies="per_update"), start, start, context)
    assert spent(context.state, "clipping") == ()


class Wary(Defense[Config]):
    """Refuses, fails or agrees, as the first number that it gets says."""

    def on_received(self, received: Tensors, here: HookContext) -> None:
        value = float(received["w"][0, 0])
        if value == 1.0:
            raise ClientRefusal("the rows are one direction")
        if value == 2.0:
            raise ZeroDivisionError("a secret of the client")
        received["w"].zero_()

    def adaptive_view(self) -> MethodDescription:
        return MethodDescription("wary")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (1.0, "defense 'wary': refused: the rows are one direction."),
        (2.0, "defense 'wary': the check of the server's message"),
    ],
)
def test_where_a_check_refuses_or_fails_the_app_is_not_run(own_methods: None, value: float, reason: str) -> None:
    registry.defense("wary", summary="for a test")(Wary)
    called: list[Message] = []

    def app(message: Message, _context: Context) -> Message:
        called.append(message)
        return Message(RecordDict({"arrays": ArrayRecord(MOVED)}), reply_to=message)

    for first in (value, 0.0):
        content = RecordDict({"arrays": ArrayRecord({**START, "w": torch.full((2, 3), first)})})
        message = Message(content, dst_node_id=7, message_type="train")
        reply = as_mod("wary")(message, Context(1, 7, {}, RecordDict(), {}), app)
        if first:
            assert (reply.error.reason or "").startswith(reason)
            assert "secret" not in (reply.error.reason or "")
            assert not called
    arrays = reply.content.array_records["arrays"].to_torch_state_dict()
    assert all(torch.equal(arrays[name], tensor) for name, tensor in MOVED.items())


def test_weights_can_be_inspected_without_training() -> None:
    context = Context(1, 7, {}, RecordDict(), {})

    def sent(weights: dict[str, torch.Tensor]) -> Message:
        return Message(RecordDict({"arrays": ArrayRecord(weights)}), dst_node_id=7, message_type="evaluate")

    check = as_mod("server-check")
    check.inspect(sent(START), context)
    as_mod("local-dp").inspect(sent({"w": torch.ones(40, 50)}), context)
    with pytest.raises(ClientRefusal, match="refused: the weights look crafted"):
        check.inspect(sent({"w": torch.ones(40, 50)}), context)
    assert context.state == RecordDict()
