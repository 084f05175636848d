"""Received weights that a client refuses, and each signal against a count by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, RecordDict
from torch import Tensor, nn

from defenses.received.server_check import ServerCheck, ServerCheckConfig
from fedsim.core import seeding
from fedsim.core.errors import ClientRefusal
from fedsim.core.hooks import HookContext, LocalStep
from fedsim.core.types import Batch
from fedsim.federation.mods import as_mod
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from tests.federating import recorded, run, scenario

Build = Callable[..., Scenario]
NAME = "server-check"
WIDE = {"name": "mlp", "width": 64, "depth": 2, "bias": True, "activation": "relu", "dropout": 0.0}
IMPRINT = {"name": "robbing-the-fed", "bins": 64}


def here(local: LocalStep | None = None) -> HookContext:
    return HookContext(1, 0, 0, torch.Generator().manual_seed(0), local=local)


def figures(weights: dict[str, Tensor], local: LocalStep | None = None, **settings: Any) -> dict[str, float]:
    check = ServerCheck(ServerCheckConfig(**settings))
    return {finding.signal: finding.value for finding in check.findings(weights, here(local))}


def beyond(weights: dict[str, Tensor], local: LocalStep | None = None, **settings: Any) -> set[str]:
    check = ServerCheck(ServerCheckConfig(**settings))
    return {finding.signal for finding in check.findings(weights, here(local)) if finding.is_beyond}


def drawn(rows: int = 64, columns: int = 50, seed: int = 0) -> dict[str, Tensor]:
    with seeding.isolate_randomness(seed):
        return {f"0.{name}": p.detach() for name, p in nn.Linear(columns, rows).named_parameters()}


def test_weights_as_they_are_initialised_are_trained_on() -> None:
    assert beyond(drawn()) == set()
    ServerCheck(ServerCheckConfig()).on_received(drawn(), here())


@pytest.mark.parametrize(
    ("change", "signal"),
    [
        (lambda w, b: w[:4].copy_(w[4:5] * torch.tensor([[1.0], [-2.0], [3.0], [0.5]])), "parallel rows"),
        (lambda w, b: w.add_(w.std() * 2 * torch.randn(1, 50)), "energy in one direction"),
        (lambda w, b: w.copy_(w.abs() * torch.tensor([1.0, -1.0]).repeat(25)), "spread of signs"),
        (lambda w, b: w.sub_(w.mean(1, keepdim=True)), "spread of sums"),
        (lambda w, b: b.copy_(0.6 * w.norm(dim=1)), "median bias over the row norm"),
        (lambda w, b: b.copy_(b.sort().values), "order of biases"),
        (lambda w, b: w[3].mul_(50.0), "largest row norm over the median"),
        (lambda w, b: w[:40].mul_(torch.tensor([1.0, 1.0] + [0.0] * 48)), "share of dead rows"),
        (lambda w, b: w[0, 0].fill_(float("nan")), "entries that are not finite"),
    ],
    ids=lambda own: own if isinstance(own, str) else "",
)
def test_each_way_to_craft_weights_is_seen_by_its_signal(change: Callable[[Tensor, Tensor], Any], signal: str) -> None:
    weights = drawn()
    with seeding.isolate_randomness(3):
        change(weights["0.weight"], weights["0.bias"])
    assert signal in beyond(weights)
    with pytest.raises(ClientRefusal, match=r"^the weights look crafted: '0.weight': .*bound"):
        ServerCheck(ServerCheckConfig()).on_received(weights, here())


def test_a_figure_at_its_bound_keeps_it() -> None:
    weights = drawn()
    spread = figures(weights)["spread of signs"]
    assert "spread of signs" not in beyond(weights, regularity=spread)
    weights["0.weight"][4] = 2.0 * weights["0.weight"][5]
    assert figures(weights)["parallel rows"] == 2
    assert "parallel rows" not in beyond(weights, parallel=2)
    assert "parallel rows" in beyond(weights, parallel=1)


def test_of_a_large_layer_rows_are_looked_at_that_the_server_cannot_foresee(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("defenses.received.server_check._MOST_ROWS", 32)
    weights = drawn(128)
    weights["0.weight"][32:] = 0.0  # whoever looks at the first rows alone sees none of these
    assert figures(weights)["share of dead rows"] > 0.5


def test_the_signals_of_rows_are_what_a_count_by_hand_gives() -> None:
    weights = drawn(40, 33)
    rows = weights["0.weight"].double()
    rows[7], rows[11], rows[12] = -0.1 * rows[5], 2.0 * rows[30] + 1e-3, 0.0
    found = figures({**weights, "0.weight": rows})
    alive = [row for row in rows if row.any()]
    cosines = [max(abs(float(nn.functional.cosine_similarity(a, b, 0))) for b in alive if b is not a) for a in alive]
    assert found["parallel rows"] == sum(cosine > 0.95 for cosine in cosines) == 4
    assert found["share of dead rows"] == pytest.approx(1 / 40)
    units = torch.stack([row / row.norm() for row in alive])
    energy = float(torch.linalg.svdvals(units)[0] ** 2) / 39
    assert found["energy in one direction"] == pytest.approx(energy, rel=1e-9)
    assert found["largest row norm over the median"] == pytest.approx(
        float(torch.stack([row.norm() for row in alive]).max() / torch.stack([row.norm() for row in alive]).median())
    )


def test_units_of_one_example_are_counted_as_a_gradient_of_each_example_says() -> None:
    with seeding.isolate_randomness(1):
        model = nn.Sequential(nn.Flatten(), nn.Linear(40, 48), nn.ReLU(), nn.Dropout(0.5), nn.Linear(48, 3))
        batch = Batch(torch.randn(9, 1, 4, 10), torch.zeros(9, dtype=torch.long))
    with torch.no_grad():
        model[1].bias.sub_(1.0)
    local = LocalStep(model, dict(model.named_parameters()), batch, 9.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = figures({}, local)["share of units that one example activates"]
    model.eval()
    active = torch.zeros(48)
    for example in batch.inputs:
        (slope,) = torch.autograd.grad(model(example[None]).sum(), [model[1].bias])
        active += slope != 0
    assert 0 < found == pytest.approx(float((active == 1).double().mean()))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    few = LocalStep(model, dict(model.named_parameters()), Batch(batch.inputs[:7], batch.labels[:7]), 7.0)
    assert figures({}, few) == {}


@pytest.mark.parametrize("engine", ["local", "vectorized"])
def test_clients_of_a_malicious_server_refuse_and_those_of_an_honest_one_train(engine: str) -> None:
    tables: dict[str, Any] = {
        "model": WIDE, "defenses": [{"name": NAME}], "federation": {"batch_size": 8, "engine": engine}
    }  # fmt: skip
    assert run(scenario(**tables)).rounds[0].participants == (0, 1, 2, 3)
    (lied,) = run(scenario(**tables, threat={"server": "malicious"}, attacks=[IMPRINT])).rounds
    assert lied.participants == ()
    assert {failure.cause for failure in lied.failures} == {"refused"}
    assert all("'0.1.weight': energy in one direction 1, bound 0.5" in failure.reason for failure in lied.failures)


def test_what_nobody_sent_is_not_attacked(tmp_path: Path) -> None:
    tables: dict[str, Any] = {"model": WIDE, "threat": {"server": "malicious"}, "attacks": [IMPRINT]}
    (arm,) = recorded(scenario(**tables, defenses=[{"name": NAME}]), tmp_path / "refused").arms
    assert arm.attacks[0].victims == ()
    (control,) = recorded(scenario(**tables), tmp_path / "control").arms
    assert control.attacks[0].victims[0].scores[0].values["psnr"] > 60


def test_trap_weights_are_refused() -> None:
    world = worlds.build(scenario(model=WIDE, threat={"server": "malicious"}, attacks=[{"name": "trap-weights"}]))
    assert beyond(dict(world.models.first_weights)) >= {"spread of signs", "spread of sums"}


def test_a_mod_runs_the_app_on_honest_weights_alone() -> None:
    answers: list[Message] = []

    def app(message: Message, _context: Context) -> Message:
        return Message(RecordDict({"arrays": message.content.array_records["arrays"]}), reply_to=message)

    for attacks in ([], [IMPRINT]):
        threat = {"server": "malicious"} if attacks else {}
        sent = worlds.build(scenario(model=WIDE, threat=threat, attacks=attacks)).models.first_weights
        content = RecordDict({"arrays": ArrayRecord(dict(sent))})
        message = Message(content, dst_node_id=7, message_type="train")
        answers.append(as_mod(NAME)(message, Context(1, 7, {}, RecordDict(), {}), app))
    assert not answers[0].has_error()
    assert (answers[1].error.reason or "").startswith("defense 'server-check': refused: the weights look crafted")
