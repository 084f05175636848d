"""The attacker cannot cheat: nothing private is reachable from an observation unless it was granted."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import nn

from attacks.core.gradient_distance import knows_rates, may_be_exact, verdict
from fedsim.audit import AuditPlan, Subject
from fedsim.audit.single_client import world_of
from fedsim.audit.subject import check_subject
from fedsim.audit.update_attacks import updates
from fedsim.core.errors import ScenarioError
from fedsim.core.types import Knowledge, Truth, WireEntry
from fedsim.core.types.effects import PrivateNoise
from fedsim.federation.client import local_training
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from fedsim.scenario.world import World
from fedsim.threat.observe import describe, observe
from fedsim.threat.victim import Victim
from tests.conftest import KNOWN
from tests.threat.reached import Watched, holds, tensors

ALL = get_args(Knowledge)


@pytest.mark.parametrize("algorithm", [{}, {"algorithm": "fedavg", "local_steps": 3, "batch_size": 2}])
def test_neither_batch_nor_masks_can_be_reached(watched: Watched, algorithm: dict) -> None:
    observation, truth, world = watched(federation=algorithm)
    found = tensors(observation)
    assert found, "the walk found nothing at all: it proves nothing"
    assert holds(found, observation.update.tensors["1.weight"])
    for batch in truth.batches:
        assert not holds(found, batch.inputs)
        assert not any(holds(found, row) for row in batch.inputs)
    for mask in (mask for step in truth.masks for mask in step):
        assert not holds(found, mask)
    assert not holds(found, world.data.dataset.train.inputs)


def test_an_audited_model_of_somebody_else_reaches_nothing_private_either() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.25), nn.Linear(8, 4))
    inputs = torch.rand(12, 1, 8, 8)
    subject = Subject(model, nn.CrossEntropyLoss(), [(inputs, torch.arange(12) % 4)])
    world = world_of(check_subject(subject, "test"), AuditPlan(target="test"), 2)
    seen = next(updates(world))
    found = tensors(observe(Victim(world, seen.entry, seen.truth), ("labels", "batch-size", "dropout-rates")))
    assert holds(found, seen.entry.update.tensors["1.weight"])
    for secret in (
        inputs,
        world.data.dataset.train.inputs,
        *seen.truth.original_batches[0].inputs,
        *seen.truth.masks[0],
    ):
        assert not holds(found, secret)


@pytest.mark.parametrize("attack", ["robbing-the-fed", "trap-weights"])
def test_a_malicious_server_reaches_nothing_private_either(watched: Watched, attack: str) -> None:
    observation, truth, world = watched(
        model={"name": "mlp", "width": 24, "depth": 2, "bias": True, "activation": "relu"},
        federation={"batch_size": 2},
        threat={"server": "malicious"},
        attacks=[{"name": attack}],
    )
    assert observation.threat.server == "malicious"
    found = tensors(observation)
    assert holds(found, next(iter(world.models.crafted_changes.tensors.values())))
    for secret in (*truth.batches[0].inputs, truth.batches[0].inputs, *truth.masks[0], world.data.dataset.train.inputs):
        assert not holds(found, secret)


def test_the_walk_finds_what_is_granted_and_what_is_hidden_in_a_closure(watched: Watched) -> None:
    observation, truth, _ = watched(knows=ALL)
    assert holds(tensors(observation), truth.masks[0][0])
    assert not holds(tensors(observation), truth.batches[0].inputs)
    secret = torch.rand(7)
    assert holds(tensors(lambda: secret + 1), secret)


def test_granted_knowledge_is_a_copy(watched: Watched) -> None:
    observation, truth, _ = watched(knows=ALL)
    observation.masks[0][0].fill_(7.0)
    assert not bool((truth.masks[0][0] == 7.0).any())


@pytest.mark.parametrize("withheld", ALL)
def test_each_grant_passes_and_nothing_else(watched: Watched, withheld: str) -> None:
    knows = tuple(k for k in ALL if k != withheld)
    _, _, world = watched(
        federation={"batch_size": 2},
        defenses=[{"name": "gradient-noise"}],
        components=[{"name": "cutmix"}],
    )
    rounds = [local_training(world, world.models.first_weights, number, 0) for number in (1, 2)]
    before, entry = (
        WireEntry(number, 0, world.models.first_weights, own[0]) for number, own in enumerate(rounds, start=1)
    )
    observation = observe(Victim(world, entry, rounds[1][1]), knows, [Victim(world, before, rounds[0][1])])
    sources = {own.source for own in observation.known_methods}
    granted = {
        "labels": observation.labels is not None,
        "masks": observation.masks is not None,
        "batch-size": observation.batch_size == 2 and observation.update.examples == 2,
        "dropout-rates": all(site.rate > 0 for site in observation.sites),
        "input-statistics": observation.spec == world.data.dataset.spec,
        "defenses": "gradient-noise" in sources,
        "components": "cutmix" in sources,
        "client-randomness": observation.draws is not None,
        "extra-inputs": observation.extra_inputs is not None,
        "earlier-rounds": bool(observation.earlier_observations),
    }
    assert {name for name, passed in granted.items() if not passed} == {withheld}
    assert observation.threat.knows == tuple(sorted(knows))


def test_several_steps_tell_how_many_examples_there_are_and_not_which_step_used_them(watched: Watched) -> None:
    share = {"scheme": "resampled", "examples_per_client": 5}
    training = {"algorithm": "fedavg", "local_epochs": 3, "batch_size": 2, "optimizer": {"name": "sgd"}}
    observation, truth, _ = watched(partition=share, federation=training)
    assert observation.batch_sizes == (2, 2, 1) * 3
    assert observation.examples == 5
    assert observation.update.examples == 15
    assert observation.labels.tolist() == sorted(torch.cat([batch.labels for batch in truth.batches[:3]]).tolist())
    ignorant, _, _ = watched(partition=share, federation=training, knows=("labels",))
    assert (ignorant.batch_sizes, ignorant.examples, ignorant.update.examples) == (None, None, 0)


def test_one_step_keeps_the_order_of_its_batch(watched: Watched) -> None:
    observation, truth, _ = watched(federation={"batch_size": 4})
    assert observation.labels is not None
    assert torch.equal(observation.labels, truth.batches[0].labels)
    assert (observation.batch_sizes, observation.examples) == ((4,), 4)


def started(scenario: Scenario) -> object:
    """The federation's table where each round starts with an optimizer that remembers nothing."""
    return scenario.federation.model_copy(update={"keep_optimizer_state": False})


def test_withheld_statistics_are_those_of_inputs_that_nobody_normalised(watched: Watched) -> None:
    observation, _, world = watched(knows=("labels",))
    assert (observation.spec.mean, observation.spec.std) == ((0.0,), (1.0,))
    assert observation.spec == replace(world.data.dataset.spec, mean=(0.0,), std=(1.0,))


def test_the_optimizer_is_public_and_whether_it_goes_on(watched: Watched) -> None:
    optimizer = {"name": "sgd", "momentum": 0.9}
    training = {"algorithm": "fedavg", "optimizer": optimizer, "keep_optimizer_state": True, "rounds": 2}
    observation, truth, world = watched(federation=training)
    assert observation.optimizer == "sgd"
    assert observation.optimizer_settings == {"learning_rate": 0.1, "momentum": 0.9}
    assert not observation.is_resumed
    earlier = {0: ((1, world.models.first_weights),)}
    again = observe(
        Victim(world, WireEntry(2, 0, world.models.first_weights, observation.update, earlier=earlier), truth), ALL
    )
    assert again.is_resumed
    forgetful = worlds.build(world.scenario.model_copy(update={"federation": started(world.scenario)}))
    anew = observe(
        Victim(forgetful, WireEntry(2, 0, world.models.first_weights, observation.update, earlier=earlier), truth), ALL
    )
    assert not anew.is_resumed
    assert any("optimizer, sgd with step size 0.1" in sentence for sentence in describe(world))


def test_a_sum_has_no_draws_of_one_client_and_says_that_it_is_one(watched: Watched) -> None:
    observation, truth, world = watched(federation={"batch_size": 2}, components=[{"name": "cutmix"}], knows=ALL)
    assert observation.draws is not None
    assert observation.threat.view == "single-update"
    entry = WireEntry(1, 0, world.models.first_weights, observation.update, clients=(0, 1))
    of_sum = observe(Victim(world, entry, truth), ALL)
    assert of_sum.draws is None
    assert of_sum.threat.view == "sum"


PRIVATE = {"clip": 0.5, "delta": 1e-6}


@pytest.mark.parametrize("noise", [{"noise_multiplier": 3.0}, {"target_epsilon": 2.0}])
@pytest.mark.parametrize("name", ["local-dp", "dp-sgd"])
def test_private_noise_has_the_deviation_that_its_description_states(watched: Watched, name: str, noise: dict) -> None:
    observation, _, world = watched(
        model={"name": "mlp", "width": 400, "depth": 2, "dropout": 0.0},
        federation={"rounds": 3, "batch_size": 4},
        partition={"scheme": "resampled", "examples_per_client": 4},
        defenses=[{"name": name, **PRIVATE, **noise}],
        knows=ALL,
    )
    (stated,) = observation.effects(PrivateNoise)
    assert stated.deviation is not None
    seen = torch.cat([tensor.flatten() for tensor in observation.update.tensors.values()])
    # Of so many values the standard error is a share of 1 / sqrt(2 n); clipping leaves 0.5 / sqrt(n) for the update.
    assert float(seen.square().mean().sqrt()) == pytest.approx(stated.deviation, rel=5 / (2 * len(seen)) ** 0.5)
    entry = WireEntry(1, 0, world.models.first_weights, observation.update, clients=(0, 1))
    (of_sum,) = observe(Victim(world, entry, observed_truth(world)), ALL).effects(PrivateNoise)
    assert of_sum.deviation is None, "a sum has the noise of several clients"


def observed_truth(world: World) -> Truth:
    return local_training(world, world.models.first_weights, 1, 0)[1]


def test_the_deviation_on_a_weight_delta_is_stated_for_uploads_and_not_for_steps(watched: Watched) -> None:
    for name, expected in (("local-dp", 1.5), ("dp-sgd", None)):
        observation, _, _ = watched(
            federation={"algorithm": "fedavg", "local_steps": 2, "batch_size": 4},
            partition={"scheme": "resampled", "examples_per_client": 4},
            defenses=[{"name": name, **PRIVATE, "noise_multiplier": 3.0}],
            knows=ALL,
        )
        assert observation.effects(PrivateNoise)[0].deviation == expected


def test_only_shared_tensors_pass(watched: Watched) -> None:
    observation, _, _ = watched(threat={"visible_parameters": ("1.*", "7.*")})
    assert set(observation.update.tensors) == {"1.weight", "7.weight"}
    assert observation.hidden_parameters == {"4.weight"}


def test_a_pattern_that_matches_no_parameter_names_the_nearest(watched: Watched) -> None:
    with pytest.raises(ScenarioError, match=r"no parameter matches '1.wieght'. Did you mean '1.weight'"):
        watched(threat={"visible_parameters": ("1.wieght",)})


@pytest.mark.parametrize(
    ("rate", "error", "shown"), [(0.25, 0.1, 0.35), (0.25, 0.9, 0.95), (0.25, -0.5, 0.0), (0.0, 0.1, 0.0)]
)
def test_misjudged_rates_stay_rates_and_no_dropout_stays_none(watched, rate, error, shown) -> None:
    observation, _, _ = watched(threat={"rate_error": error}, model={"dropout": rate})
    assert [site.rate for site in observation.sites] == [shown] * len(observation.sites)
    modules = [m.p for m in observation.model.modules() if isinstance(m, nn.Dropout)]
    assert modules == [shown] * len(modules)


def test_with_misjudged_rates_no_guess_is_called_exact(watched: Watched) -> None:
    """The attacker takes its rates for known; at the truth its gradient is another one than the client's."""
    objectives: list[float] = []
    for error in (0.0, 0.1):
        observation, truth, _ = watched(threat={"rate_error": error}, knows=ALL)
        assert knows_rates(observation)
        assert observation.labels is not None
        inputs, masks = truth.batches[0].inputs, truth.masks[0]
        objectives.append(verdict(observation, inputs, observation.labels, masks, (0.0, "none")).objective)
        assert may_be_exact(observation, objectives[-1]) is not bool(error)
    assert not knows_rates(watched(knows=("labels",))[0])


def test_withheld_rates_do_not_stand_in_the_model(watched: Watched) -> None:
    observation, _, _ = watched(knows=("labels", "batch-size"))
    assert [m.p for m in observation.model.modules() if isinstance(m, nn.Dropout)] == [0.0, 0.0]
    assert len(observation.sites) == 2


def test_the_rate_of_attention_is_withheld_too(watched, tmp_path, monkeypatch) -> None:
    (tmp_path / "attentive_net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, classes):\n"
        "        super().__init__()\n"
        "        self.attention = nn.MultiheadAttention(8, 2, dropout=0.3, batch_first=True)\n"
        "        self.linear = nn.Linear(64, classes)\n"
        "    def forward(self, x):\n"
        "        rows = x.flatten(1, 2)\n"
        "        return self.linear(self.attention(rows, rows, rows)[0].flatten(1))\n"
        "def make(spec):\n    return Net(spec.classes)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    rates = []
    for knows in (("labels",), ("labels", "dropout-rates")):
        observation, _, _ = watched(model={"name": "attentive_net:make"}, knows=knows)
        (attention,) = (m for m in observation.model.modules() if isinstance(m, nn.MultiheadAttention))
        rates.append((attention.dropout, [site.rate for site in observation.sites]))
    assert rates == [(0.0, [0.0]), (0.3, [0.3])]


def test_the_update_is_a_copy_with_its_buffers(watched: Watched) -> None:
    _, truth, world = watched()
    update, _ = local_training(world, world.models.first_weights, 1, 0)
    sent = replace(update, buffers={"mean": torch.ones(3)})
    observation = observe(Victim(world, WireEntry(1, 0, world.models.first_weights, sent), truth), KNOWN)
    for own, theirs in ((observation.update.tensors, sent.tensors), (observation.update.buffers, sent.buffers)):
        assert own
        for name, tensor in own.items():
            before = theirs[name].clone()
            tensor.fill_(7.0)
            assert torch.equal(theirs[name], before)


def test_rates_that_cannot_be_withheld_are_refused(watched, tmp_path, monkeypatch) -> None:
    (tmp_path / "own_net.py").write_text(
        "import torch.nn.functional as F\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, classes):\n"
        "        super().__init__()\n"
        "        self.linear = nn.Linear(64, classes)\n"
        "    def forward(self, x):\n"
        "        return F.dropout(self.linear(x.flatten(1)), 0.3, self.training)\n"
        "def make(spec):\n    return Net(spec.classes)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    model = {"name": "own_net:make"}
    with pytest.raises(ScenarioError, match="add 'dropout-rates' to threat.knows"):
        watched(model=model, knows=("labels",))
    watched(model=model)
    with pytest.raises(ScenarioError, match="cannot be misjudged by the attacker: set threat.rate_error to 0"):
        watched(model=model, threat={"rate_error": 0.1})


def test_a_granted_batch_size_may_be_none(watched: Watched) -> None:
    training = {"clients": 8, "sampling": "poisson", "algorithm": "fedavg", "local_steps": 3}
    _, _, world = watched(federation=training)
    sizes = [tuple(len(drawn) for drawn in world.data.numbers_of(1, client)) for client in range(8)]
    client = next(client for client, size in enumerate(sizes) if not size[0] and any(size))
    observation, _, _ = watched(federation=training, client=client)
    assert observation.batch_size == 0
    assert observation.batch_sizes == sizes[client]
    assert observation.update.examples == observation.examples == sum(sizes[client])
    assert [site.shape[0] for site in observation.sites] == [1, 1]
