"""From a federation to its membership attackers: who is a member, what passes the door, and what a run records."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.core import seeding
from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.core.types import Batch
from fedsim.experiment import runner
from fedsim.questions.membership import observe as membership
from fedsim.questions.membership.question import Membership, MembershipQuestion
from fedsim.questions.membership.types import ShadowPlan, Target
from fedsim.record import Finding, Interval
from fedsim.record.store import read_record
from fedsim.report import writing
from fedsim.scenario import parse
from fedsim.scenario import world as worlds
from fedsim.threat.observe import describe
from fedsim.threat.uses import count_training
from tests.experiment.running import Build, run
from tests.questions.membership.judged import ALL, CANDIDATES, SMALL, Cases, Watching
from tests.threat.reached import holds, tensors


def rows(batch: Batch) -> list[bytes]:
    return [example.numpy().tobytes() for example in batch.inputs]


def figures_of(own: Finding) -> dict[str, Interval]:
    assert own.value is not None
    return {own.metric: own.value, **own.extra_metrics}


def test_members_are_what_updates_were_computed_from_and_the_others_are_not(scenario: Build) -> None:
    built = scenario(**SMALL)
    journal = runner.train(worlds.build(built), lambda _: None)
    world = worlds.build(built)
    train, uses = world.data.dataset.train, count_training(world, journal.rounds)
    drawn = [batch for round_ in (1, 2) for client in range(4) for batch in world.data.batches(round_, client)]
    assert int(uses.sum()) == sum(map(len, drawn)) == 2 * 4 * 3 * 8
    used = {row for batch in drawn for row in rows(batch)}
    assert {row for row, count in zip(rows(train), uses, strict=True) if count} == used
    case = membership.observe_model(world, journal, CANDIDATES)
    assert int(case.is_member.sum()) == 40 == len(case.is_member) // 2
    test, reference = set(rows(world.data.dataset.test)), set(rows(case.observation.reference))
    for row, is_member in zip(rows(case.observation.candidates), case.is_member, strict=True):
        assert row in (used if is_member else test)
        assert row not in reference
    assert reference <= test


def test_members_of_updates_are_the_victims_own_batches(cases: Cases, scenario: Build) -> None:
    case = cases()["update"]
    world = worlds.build(scenario(**SMALL))
    own = {row for round_ in (1, 2) for batch in world.data.batches(round_, 0) for row in rows(batch)}
    candidates = zip(rows(case.observation.candidates), case.is_member, strict=True)
    found = {row for row, is_member in candidates if is_member}
    assert found <= own
    assert len(found) == min(40, len(own)) == int(case.is_member.sum())
    assert (case.client, case.rounds) == (0, (1, 2))


@pytest.mark.parametrize("target", ["model", "update"])
def test_nothing_in_reach_says_who_is_a_member(cases: Cases, scenario: Build, target: Target) -> None:
    case = cases()[target]
    plan = ShadowPlan(4, with_candidates=True)
    shadows = membership.shadows(case.observation, plan, 0, lambda _: None)
    found = tensors((case.observation, shadows))
    dataset = worlds.build(scenario(**SMALL)).data.dataset
    assert holds(found, case.observation.candidates.inputs), "the walk found nothing at all: it proves nothing"
    n, members = len(case.is_member), case.is_member
    marks = [tensor for tensor in found if tensor.numel() == n and not tensor.is_floating_point()]
    assert marks, "labels and shadow masks have this size"
    for mark in marks:
        for is_high in (mark.flatten() > mark.double().mean(), mark.flatten() <= mark.double().mean()):
            assert not torch.equal(is_high, members)
    for secret in (members.nonzero().flatten(), (~members).nonzero().flatten(), dataset.train.inputs):
        assert not holds(found, secret)
    candidates = set(rows(case.observation.candidates))
    kept = [tensor for tensor in found if tensor.shape[-3:] == dataset.spec.shape]
    known = candidates | set(rows(case.observation.reference))
    assert all(row.numpy().tobytes() in known for tensor in kept for row in tensor.reshape(-1, *dataset.spec.shape))


def test_each_update_is_seen_as_the_threat_model_says(cases: Cases) -> None:
    threat = {"rounds": [1], "visible_parameters": ["1.*"], "knows": ["labels"]}
    (watched,) = cases(threat=threat)["update"].observation.updates
    assert set(watched.update.tensors) == {"1.weight"}
    assert watched.update.examples == 0


def test_the_models_after_watched_rounds_and_the_last_are_seen(cases: Cases) -> None:
    seen = cases(threat={"rounds": [1]})["model"].observation
    assert [round_ for round_, _ in seen.weights] == [1, 2]
    assert not torch.equal(seen.weights[0][1]["1.weight"], seen.weights[1][1]["1.weight"])
    final = seen.model.state_dict()
    assert all(torch.equal(final[name], tensor) for name, tensor in seen.weights[1][1].items())


def test_every_example_is_in_half_of_the_shadow_models_and_the_plan_decides_which(cases: Cases) -> None:
    seen = cases()["model"].observation
    for with_candidates in (True, False):
        plan = ShadowPlan(6, with_candidates)
        trained = membership.shadows(seen, plan, 0, lambda _: None)
        inside = torch.stack([own.candidates for own in trained])
        assert inside.sum(0).tolist() == [3 * with_candidates] * len(seen.candidates)
        assert torch.stack([own.reference for own in trained]).sum(0).tolist() == [3] * len(seen.reference)
        again = membership.shadows(seen, plan, 0, lambda _: None)
        assert all(
            torch.equal(a.weights["1.weight"], b.weights["1.weight"]) for a, b in zip(trained, again, strict=True)
        )


def test_a_shadow_model_in_fedsgd_takes_the_federations_own_steps(scenario: Build) -> None:
    """All clients' examples in each step: what the federation does is what the recipe does, up to rounding."""
    tables: dict[str, Any] = {
        "data": {"name": "digits", "test_fraction": 0.8},
        "model": {"name": "mlp", "width": 24, "depth": 1, "dropout": 0.0},
        "partition": {"scheme": "iid"},
        "federation": {"clients": 4, "rounds": 3, "batch_size": 91},
        "aggregation": {"name": "mean", "optimizer": {"name": "sgd", "learning_rate": 0.5}},
    }
    built = scenario(**tables)
    journal = runner.train(worlds.build(built), lambda _: None)
    world = worlds.build(built)
    used = count_training(world, journal.rounds).nonzero().flatten()
    case = membership.observe_model(world, journal, CANDIDATES)
    train = world.data.dataset.train
    weights = case.observation.train_shadow(
        Batch(train.inputs[used], train.labels[used]), seeding.generator(0, "shadow")
    )
    assert len(used) == 4 * 91 == len(train)
    for name, tensor in journal.weights.items():
        assert torch.allclose(weights[name], tensor, atol=1e-5)


@pytest.mark.slow
def test_a_run_records_every_attack_and_shares_shadow_models(scenario: Build, tmp_path: Path) -> None:
    watcher = Watching()
    record = run(scenario(**SMALL), tmp_path / "run", watcher)
    assert record == read_record(tmp_path / "run")
    (arm,) = record.arms
    assert arm.complete
    assert [finding.label for finding in arm.answers] == ALL
    assert list(arm.findings) == watcher.findings
    shown = [f"calibrated: shadow model {number}/8" for number in range(1, 9)]
    assert watcher.shadows == shown, "rmia found them trained"
    for finding in arm.findings:
        assert finding.failure == ""
        assert figures_of(finding)["auc"].n == int(finding.scope["members"]) + int(finding.scope["non_members"])
        assert set(arm.items[finding.items]) == {"fpr", "tpr"}
    assert [
        tuple(finding.scope.get(name) for name in ("target", "client", "rounds")) for finding in arm.findings[-2:]
    ] == [
        ("model", None, None),
        ("update", 0, "1, 2"),
    ]
    (again,) = run(scenario(**SMALL), tmp_path / "again", Watching()).arms
    assert [own.model_copy(update={"seconds": 0.0}) for own in again.findings] == [
        own.model_copy(update={"seconds": 0.0}) for own in arm.findings
    ]
    assert again.items == arm.items


def test_an_arm_is_complete_only_after_its_membership_attacks(scenario: Build, tmp_path: Path) -> None:
    built = scenario(**SMALL, attacks=[{"name": "fedavg-inversion", "max_iterations": 2}])
    whole = run(built, tmp_path / "whole", Watching())
    with pytest.raises(KeyboardInterrupt):
        run(built, tmp_path / "cut", Watching(stop_at=3))
    left = read_record(tmp_path / "cut")
    assert [arm.complete for arm in left.arms] == [False]
    assert [finding.label for finding in left.arms[0].answers] == ["loss-threshold"]
    assert writing.build(tmp_path / "cut").is_file()
    resumed = run(built, tmp_path / "cut", Watching(), earlier=left)
    assert [figures_of(finding) for finding in resumed.arms[0].answers] == [
        figures_of(finding) for finding in whole.arms[0].answers
    ]
    assert resumed.arms[0].items == whole.arms[0].items


def test_too_few_candidates_are_named_before_anything_is_trained(scenario: Build, tmp_path: Path) -> None:
    table = {"candidates": 500, "attacks": [{"name": "loss-threshold"}]}
    for fraction, words in ((0.2, "half of the test set holds only"), (0.8, "the training set holds only")):
        built = scenario(**{**SMALL, "data": {"name": "digits", "test_fraction": fraction}, "membership": table})
        with pytest.raises(ScenarioError, match=f"membership.candidates is 500, but {words}"):
            membership.check(worlds.build(built), 500)


def test_more_candidates_than_clients_train_on_are_refused_before_anything_is_trained(scenario: Build) -> None:
    """Four clients take 3 steps of 8 examples each; those of a client that crashes do not count."""
    of_model = {"candidates": 72, "attacks": [{"name": "loss-threshold"}, {"name": "update-alignment"}]}
    once = {"federation": {**SMALL["federation"], "rounds": 1}, "threat": {"rounds": [1]}}
    tables = {**SMALL, **once, "membership": of_model, "participation": {"always_crash": [2]}}
    MembershipQuestion(Membership.model_validate(of_model)).check(worlds.build(scenario(**tables)))
    for more in ({"candidates": 73}, {"candidates": 73, "attacks": [{"name": "loss-trajectory"}]}):
        world = worlds.build(scenario(**{**tables, "membership": {**of_model, **more}}))
        why = r"candidates is 73, but what clients train on holds only 72\. .*at most 72, or train longer"
        with pytest.raises(ScenarioError, match=why):
            world.questions[0].check(world)


def test_attacks_on_a_clients_updates_judge_as_many_members_as_it_has(scenario: Build) -> None:
    table = {"candidates": 300, "attacks": [{"name": "update-alignment"}]}
    world = worlds.build(scenario(**{**SMALL, "membership": table}))
    world.questions[0].check(world)


def test_fewer_examples_used_than_wanted_are_told_in_the_record(
    scenario: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "check_trained_on", lambda _world, _wanted: None)  # as where updates do not count
    built = scenario(**{**SMALL, "membership": {"candidates": 300, "attacks": [{"name": "loss-threshold"}]}})
    (own,) = run(built, tmp_path / "run", Watching()).arms[0].findings
    assert "the training examples that updates were computed from holds only" in own.failure


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ({"membership": {"attacks": [{"name": "lirra"}]}}, "membership.attacks.0.name: .*'lirra'. Did you mean 'lira'"),
        ({"membership": {"attacks": [{"name": "lira", "shadows": 7}]}}, r"attacks.0.shadows: .*multiple of 2, got 7"),
        (
            {"membership": {"attacks": [{"name": "update-alignment"}]}, "threat": {"view": "sum"}},
            r"'update-alignment' scores the updates of a single client, but threat.view = 'sum'",
        ),
    ],
)
def test_a_mistake_is_named_with_its_key_and_the_nearest_name(tables: dict[str, Any], expected: str) -> None:
    raw = {"title": "t", "data": {"name": "digits"}, "model": {"name": "mlp"}, **tables}
    with pytest.raises(FedsimError, match=expected):
        parse(raw, "s.toml")


def test_settings_are_filled_in_and_the_threat_model_tells_of_candidates(scenario: Build) -> None:
    built = scenario(**{**SMALL, "membership": {"attacks": [{"name": "lira", "label": "L"}], "candidates": 40}})
    assert built.questions["membership"].settings["attacks"] == [
        {"name": "lira", "label": "L", "shadows": 16, "mode": "online", "variance": "fixed"}
    ]
    assert parse(built.model_dump(mode="json"), "again") == built
    sentence = "Membership attacks judge 40 training examples and as many others"
    world = worlds.build(built)
    told = runner._describe(world)
    assert any(sentence in own for own in told)
    assert sentence not in " ".join(describe(world))
    assert not any("Membership" in own for own in runner._describe(worlds.build(scenario())))


@pytest.mark.parametrize("target", ["model", "update"])
def test_the_seed_does_not_give_the_order_of_candidates(cases: Cases, scenario: Build, target: Target) -> None:
    """An attack that repeats the old derivation from the scenario's seed knows every member without looking."""
    is_member, seed = cases()[target].is_member, scenario(**SMALL).seed
    source = seeding.generator(seed, "membership order")
    replayed = torch.randperm(len(is_member), generator=source) < len(is_member) // 2
    assert not torch.equal(replayed, is_member)
    agreeing = int((replayed == is_member).sum())
    assert abs(agreeing - len(is_member) / 2) < 4 * (len(is_member) / 4) ** 0.5


def test_a_salt_changes_the_order_of_candidates_and_no_candidate(scenario: Build) -> None:
    world = worlds.build(scenario(**SMALL))
    journal = runner.train(world, lambda _: None)
    made = [membership.observe_model(world, journal, CANDIDATES, salt) for salt in (b"", b"a", b"b", b"a")]
    orders = [rows(case.observation.candidates) for case in made]
    assert orders[1] == orders[3]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert len({frozenset(order) for order in orders}) == 1
    assert not torch.equal(made[0].is_member, made[1].is_member)


def test_the_order_of_candidates_says_nothing(cases: Cases) -> None:
    firsts = [cases(seed=seed)["model"].is_member[:20].double().mean() for seed in range(4)]
    assert 0.25 < float(torch.stack(firsts).mean()) < 0.75
    assert len({float(first) for first in firsts}) > 1
