"""Claims of epsilon under audit: DP-SGD as it is, one that forgets its noise, and what a contradiction does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, final

import pytest
import torch
from typer.testing import CliRunner

from fedsim.cli.main import app
from fedsim.core import registry
from fedsim.core.errors import ClientRefusal
from fedsim.core.hooks import Defense, HookContext, PublicFederation
from fedsim.core.types import Config, Mechanism, MethodDescription, Tensors
from fedsim.experiment.guaranteeing import guarantees
from fedsim.questions.audit import canaries
from fedsim.questions.base import Evidence, QuestionContext
from fedsim.record import Finding, RoundRecord
from fedsim.record.store import read_record
from fedsim.scenario import world as worlds
from tests.experiment.running import Build

CANARIES, GUESSES = 60, 40


def dp_sgd(noise: float) -> Defense[Any]:
    method = registry.get("defense", "dp-sgd")
    return method.make(method.config.model_validate({"noise_multiplier": noise}))


class ForgetfulConfig(Config):
    """No settings."""


@final
class Forgetful(Defense[ForgetfulConfig]):
    """Clips like DP-SGD and claims its noise, but adds none."""

    place: ClassVar[Any] = "examples"
    needs_step: ClassVar[bool] = True

    def on_examples(self, losses: Callable[[], torch.Tensor], here: HookContext) -> tuple[float, Tensors]:
        return dp_sgd(0.0).on_examples(losses, here)

    def mechanism(self, federation: PublicFederation) -> Mechanism | None:
        return dp_sgd(4.0).mechanism(federation)

    def adaptive_view(self) -> MethodDescription:
        return MethodDescription("forgetful")


@pytest.fixture
def forgetful(own_methods: None) -> None:
    """The defense 'forgetful', for one test."""
    registry.defense("forgetful", summary="forgets its noise")(Forgetful)


TABLES: dict[str, Any] = {
    "federation": {"clients": 4, "batch_size": 300, "sampling": "poisson"},
    "model": {"name": "mlp", "width": 24, "depth": 2, "dropout": 0.0},
    "audit": {"canaries": CANARIES, "guesses": GUESSES},
}


ONE_ROUND = [RoundRecord.model_construct(cohort=(0, 1, 2, 3))]


def audits(scenario: Build, name: str, **settings: Any) -> list[Finding]:
    world = worlds.build(scenario(defenses=[{"name": name, **settings}], **TABLES))
    stated = guarantees(world, ONE_ROUND)
    (question,) = world.questions
    return list(question.run(Evidence(world, None, guarantees=stated), QuestionContext()))  # type: ignore[arg-type]


def test_dp_sgd_is_not_contradicted(scenario: Build) -> None:
    (found,) = audits(scenario, "dp-sgd", noise_multiplier=2.0)
    assert 0.0 <= found.value.value <= found.chance_level < 3.0
    assert (found.state, found.alarm) == ("withstood", "")


@pytest.mark.slow
@pytest.mark.usefixtures("forgetful")
def test_one_that_forgets_its_noise_is(scenario: Build) -> None:
    (found,) = audits(scenario, "forgetful")
    assert found.state == "recovered"
    assert found.alarm.startswith("An audit contradicts a guarantee. forgetful states")


def test_without_noise_nothing_is_claimed_that_could_be_audited(scenario: Build) -> None:
    assert audits(scenario, "dp-sgd", noise_multiplier=0.0) == []


def test_canaries_leave_what_is_public_alone(scenario: Build) -> None:
    world = worlds.build(scenario(defenses=[{"name": "dp-sgd"}], **TABLES))
    included = torch.tensor([True, False] * (CANARIES // 2))
    spec = world.data.dataset.spec
    examples = canaries._canaries(CANARIES, spec.shape, spec.classes)
    with_canaries = canaries.training_on(world, examples, included, 1.0, seed=5)
    assert with_canaries.scenario.seed == 5
    assert with_canaries.facts.federation == world.facts.federation
    (drawn,) = list(with_canaries.data.numbers_of(1, 0))
    assert torch.equal(drawn, included.nonzero()[:, 0])


@pytest.mark.usefixtures("forgetful")
def test_a_contradiction_is_loud_and_ends_the_run_with_exit_code_one(tmp_path: Path) -> None:
    lines = [
        'title = "a false claim"\nseed = 3\ndata = { name = "digits" }',
        'model = { name = "mlp", width = 24, depth = 2, dropout = 0.0 }',
        'federation = { clients = 4, batch_size = 300, sampling = "poisson" }',
        f"audit = {{ canaries = {CANARIES}, guesses = {GUESSES} }}",
        'defenses = [{ name = "forgetful" }]',
    ]
    path = tmp_path / "claim.toml"
    path.write_text("\n".join(lines))
    result = CliRunner().invoke(app, ["run", str(path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    (arm,) = read_record(tmp_path / "out").arms
    assert arm.findings[0].alarm
    assert "An audit contradicts a guarantee. forgetful states" in " ".join(result.output.split())
    assert "An audit contradicts a guarantee" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.usefixtures("own_methods")
def test_a_client_that_refuses_crafted_weights_is_audited_at_the_first_ones(scenario: Build) -> None:
    refusals: list[bool] = []

    @registry.defense("wary", summary="trains on weights of no layer that is scaled down")
    class Wary(Defense[ForgetfulConfig]):
        place: ClassVar[Any] = "received"

        def on_received(self, received: Tensors, here: HookContext) -> None:
            weight = next(tensor for tensor in received.values() if tensor.dim() > 1)
            refusals.append(is_crafted := bool(weight.std() < 1e-3))
            if is_crafted:
                raise ClientRefusal("crafted")

        def adaptive_view(self) -> MethodDescription:
            return MethodDescription("wary")

    defenses = [{"name": "dp-sgd", "noise_multiplier": 2.0}, {"name": "wary"}]
    world = worlds.build(scenario(defenses=defenses, **TABLES))
    settings = {"canaries": CANARIES, "guesses": GUESSES, "runs": 1, "client": 0, "confidence": 0.95}
    outcome = canaries.audit_guarantee(world, guarantees(world, ONE_ROUND)[0], **settings)
    assert outcome.plan.guesses == GUESSES
    assert refusals == [True, False]


def test_canaries_overlap_less_at_crafted_weights(scenario: Build) -> None:
    world = worlds.build(scenario(defenses=[{"name": "dp-sgd"}], **TABLES))
    spec = world.data.dataset.spec
    some = canaries._canaries(CANARIES, spec.shape, spec.classes)
    model = world.models.new().eval()
    as_is, crafted = (
        canaries._overlap(world, canaries._load_weights(each, model), some) for each in canaries._weights(model)
    )
    assert crafted < as_is / 4


def test_scores_are_taken_beside_their_class() -> None:
    scores, labels = torch.tensor([1.0, 5.0, 3.0, 10.0]), torch.tensor([0, 2, 0, 2])
    assert canaries._center_by_class(scores, labels).tolist() == [-1.0, -2.5, 1.0, 2.5]
