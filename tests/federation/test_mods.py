"""Defenses as mods of an app that knows nothing of this project."""

from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import fixedclipping_mod
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import nn

from fedsim.core.errors import FedsimError
from fedsim.federation.engines.local import LocalGrid
from fedsim.federation.mods import as_mod
from fedsim.privacy.accounting import Spent, epsilon, gaussian_epsilon
from fedsim.privacy.history import spent

STEPS = 3


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
    content = RecordDict({"arrays": ArrayRecord(received), "config": ConfigRecord({"clipping_norm": 0.5})})
    message = Message(content, dst_node_id=7, message_type="train")

    def app(message: Message, context: Context) -> Message:
        return Message(RecordDict({"arrays": ArrayRecord(answer)}), reply_to=message)

    return mod(message, context, app).content.array_records["arrays"].to_torch_state_dict()


def test_scalars_are_clipped_integers_travel_as_they_are_and_an_unchanged_model_is_no_error() -> None:
    mod = as_mod("clipping", norm=1.0, applies="per_update")
    start = {"scale": torch.tensor(0.0), "seen": torch.tensor(3)}
    ours = changed_by(mod, start, {"scale": torch.tensor(100.0), "seen": torch.tensor(4)})
    assert float(ours["scale"]) == pytest.approx(1.0)
    assert ours["seen"] == torch.tensor(4)
    assert changed_by(mod, start, start) == start


def test_noise_is_never_used_twice_and_differs_between_nodes() -> None:
    mod = as_mod("gradient-noise", scale=1.0, applies="per_update", seed=3)
    start = {"w": torch.zeros(50)}
    context = Context(1, 7, {}, RecordDict(), {})
    first, second = answer_of(mod, start, start, context)["w"], answer_of(mod, start, start, context)["w"]
    other = answer_of(mod, start, start, Context(1, 8, {}, RecordDict(), {}))["w"]
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(first, answer_of(mod, start, start, Context(1, 7, {}, RecordDict(), {}))["w"])


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


def test_other_messages_and_failures_pass_and_foreign_shapes_are_refused() -> None:
    mod = as_mod("clipping", norm=1.0, applies="per_update")
    context = Context(1, 7, {}, RecordDict(), {})
    asked = Message(RecordDict(), dst_node_id=7, message_type="query")
    assert mod(asked, context, lambda message, _context: message) is asked
    with pytest.raises(FedsimError, match="other names"):
        changed_by(mod, {"w": torch.zeros(2)}, {"v": torch.zeros(2)})
    empty = Message(RecordDict(), dst_node_id=7, message_type="train")
    with pytest.raises(FedsimError, match="0 array records"):
        mod(empty, context, lambda message, _context: message)


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
