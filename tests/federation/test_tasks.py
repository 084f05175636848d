"""A task that draws, on examples beside which something is given: through training, replay, scoring and observation."""

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, final

import pytest
import torch
from torch import Tensor, nn

from fedsim.core import registry, seeding
from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.core.hooks import Task
from fedsim.core.nets.masks import inject_masks
from fedsim.core.types import Batch, Config, Dataset, Draws, InputSpec, Modality, Reconstruction, Truth, WireEntry
from fedsim.core.types.tasks import Model, Scored
from fedsim.federation import cohort
from fedsim.federation.apps import evaluate_model
from fedsim.federation.client import local_training
from fedsim.scenario import world as worlds
from fedsim.scenario.world import World
from fedsim.threat.observe import describe, observe
from fedsim.threat.replay import replay
from fedsim.threat.victim import Victim
from tests.experiment.running import Build

WIDTH = 3


class Denoising(Task[Config]):
    """The numbers are found again in noise that the client draws."""

    modality: ClassVar[Modality] = "numbers"
    knowable = frozenset()

    def draw(self, batch: Batch, generator: torch.Generator) -> Draws:
        return {"noise": torch.randn(batch.inputs.shape, generator=generator)}

    def outputs(self, model: Model, batch: Batch, draws: Draws) -> Tensor:
        return model(batch.inputs + draws["noise"], **batch.extra_inputs)

    def targets(self, batch: Batch, draws: Draws) -> Tensor:
        return batch.inputs

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().mean(1)

    def evaluate(self, model: Model, data: Dataset, generator: torch.Generator) -> Mapping[str, float]:
        draws = self.named_draws(data.test, generator)
        return {"test_loss": float(self.loss(*self.answer(model, data.test, draws)))}

    def score(self, truth: Truth, examples: Batch, guess: Reconstruction, data: Dataset) -> Scored:
        raise AssertionError("nobody attacks here")


@final
class Asked(nn.Module):
    """Reads the numbers, and where to look."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.dropout = nn.Linear(WIDTH + 1, WIDTH), nn.Dropout(0.3)

    def forward(self, inputs: Tensor, where: Tensor) -> Tensor:
        return self.linear(self.dropout(torch.cat((inputs, where), 1)))


def numbers(_config: Config) -> Dataset:
    """Return twenty rows of numbers; beside each stands where to look."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(20, WIDTH, generator=generator)
    batch = Batch(rows, torch.zeros(20, dtype=torch.long), {"where": torch.arange(20.0)[:, None]})
    return Dataset(batch, batch, InputSpec((WIDTH,), 1, (), ()), ("number",), task="cleaning")


def asked(_config: Config, _spec: InputSpec) -> nn.Module:
    """Return the model."""
    return Asked()


@pytest.fixture
def world(scenario: Build) -> Iterator[Callable[..., World]]:
    with registry.temporary():
        registry.task("cleaning", summary="numbers out of noise")(Denoising)
        registry.dataset("numbers", summary="rows of numbers")(numbers)
        registry.model("asked", summary="reads numbers and where to look")(asked)

        def build(**tables: object) -> World:
            return worlds.build(scenario(data={"name": "numbers"}, model={"name": "asked"}, **tables))

        yield build


SEVERAL = {"algorithm": "fedavg", "clients": 3, "batch_size": 2, "local_steps": 2}


def test_what_a_task_draws_is_a_secret_of_the_step_and_is_drawn_again_by_the_replay(world) -> None:
    own = world(federation={"clients": 4, "batch_size": 2})
    own.check()
    received = own.models.first_weights
    update, truth = local_training(own, received, 1, 2)
    batch, noise = truth.batches[0], truth.draws[0]["task.noise"]
    assert truth.draws[0].keys() == {"task.noise"}
    expected = torch.randn(2, WIDTH, generator=seeding.generator(own.scenario.seed, "task", 1, 2, 0))
    assert torch.equal(noise, expected)
    train = own.data.dataset.train
    rows = [int((train.inputs == row).all(1).nonzero()) for row in batch.inputs]
    assert batch.extra_inputs["where"].flatten().tolist() == rows
    model = own.models.new()
    with inject_masks(own.models.sites, truth.masks[0]):
        loss = (model(batch.inputs + noise, where=batch.extra_inputs["where"]) - batch.inputs).square().mean()
    gradients = dict(
        zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters())), strict=True)
    )
    for name, tensor in update.tensors.items():
        torch.testing.assert_close(tensor, gradients[name])
    entry = WireEntry(1, 2, received, update)
    assert replay(own, entry).matches
    at_truth = Victim(own, entry, truth).objective_at_truth
    assert at_truth < 1e-6  # rounding of float32


def test_clients_trained_together_draw_what_each_draws_alone(world) -> None:
    own = world(federation={**SEVERAL, "engine": "vectorized"})
    cohort.check(own)
    trained = cohort.cohort_training(own, own.models.first_weights, 1, [0, 2], [{}, {}])
    for client, (vector, _, loss) in zip((0, 2), trained.rows(), strict=True):
        alone, _ = local_training(own, own.models.first_weights, 1, client)
        expected = own.models.layout.flat(alone.tensors, alone.buffers)
        assert float((vector - expected).norm()) <= cohort.ROUNDING * float(expected.norm())
        assert loss == pytest.approx(alone.loss, rel=cohort.ROUNDING)


def test_draws_and_what_is_given_reach_an_attacker_only_if_granted(world) -> None:
    own = world(federation=SEVERAL)
    received = own.models.first_weights
    update, truth = local_training(own, received, 1, 0)
    victim = Victim(own, WireEntry(1, 0, received, update), truth)
    blind, seeing = observe(victim, ()), observe(victim, ("client-randomness", "extra-inputs"))
    assert (blind.draws, blind.extra_inputs) == (None, None)
    assert [step["task.noise"].tolist() for step in seeing.draws] == [
        step["task.noise"].tolist() for step in truth.draws
    ]
    assert sorted(seeing.extra_inputs["where"].flatten().tolist()) == sorted(
        victim.examples.extra_inputs["where"].flatten().tolist()
    )
    assert seeing.extra_inputs["where"].data_ptr() != victim.examples.extra_inputs["where"].data_ptr()
    assert seeing.task.modality == "numbers"
    told = " ".join(describe(own))
    assert "It does not see the random draws of components and task." in told
    assert "It does not see the model's additional inputs." in told
    assert "labels" not in told


def test_evaluation_draws_the_same_each_time(world) -> None:
    own = world()
    tested = [evaluate_model(own, own.models.first_weights) for _ in range(2)]
    assert tested[0] == tested[1]
    assert list(tested[0]) == ["test_loss"]


def test_a_data_set_that_names_no_known_task_is_refused(world, scenario: Build) -> None:
    def odd(config: Config) -> Dataset:
        return Dataset(**{**vars(numbers(config)), "task": "cleanin"})

    registry.dataset("odd", summary="names a task that does not exist")(odd)
    with pytest.raises(FedsimError, match=r"data 'odd' names its task: there is no task 'cleanin'.*'cleaning'"):
        worlds.build(scenario(data={"name": "odd"}, model={"name": "asked"}))


def test_methods_for_other_examples_are_refused_by_name(world) -> None:
    with pytest.raises(ScenarioError, match="component 'cutmix' does not fit: it works on images, and the example"):
        world(components=[{"name": "cutmix"}]).check()
    with pytest.raises(ScenarioError, match="label_noise: it changes the class of an image, and the examples are numb"):
        world(label_noise={"rate": 0.1})


def test_methods_that_see_tensors_alone_work_on_any_examples(world) -> None:
    hooks = {
        "components": [{"name": "fedprox"}, {"name": "dropout", "rate": 0.2}],
        "defenses": [{"name": "clipping", "norm": 1.0}, {"name": "gradient-noise", "scale": 0.01}],
    }
    own = world(federation=SEVERAL, **hooks)
    own.check()
    update, _ = local_training(own, own.models.first_weights, 1, 0)
    assert all(bool(tensor.isfinite().all()) for tensor in update.tensors.values())
