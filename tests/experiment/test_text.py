"""Text through the federation: what holds for tokens as it does for pixels, and what refuses them."""

from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from fedsim.cli import display, endings
from fedsim.core import examples, registry, seeding
from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.hooks import IMAGES_AND_TEXT, Attack, Defense
from fedsim.core.nets.losses import cross_entropy
from fedsim.core.nets.masks import dropout_sites, mask_not_batch_first
from fedsim.core.types import (
    Batch,
    Config,
    InputSpec,
    Observation,
    OnStep,
    Reconstruction,
    ThreatModel,
    Update,
    WireEntry,
)
from fedsim.data.partition import describe_partition, partition
from fedsim.experiment import runner
from fedsim.federation import cohort
from fedsim.federation.apps import evaluate_model
from fedsim.federation.client import local_training
from fedsim.record.store import RunFolder
from fedsim.report import writing
from fedsim.report.document.terminal import to_terminal
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from fedsim.scenario.world import World
from fedsim.tasks.next_token import NextToken
from fedsim.threat.replay import replay

SPEC = InputSpec((4,), 7, (), (), vocabulary=7)


TASK = NextToken(Config())


class Tagger(nn.Module):
    """The smallest language model: one token says the next."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.dropout = nn.Dropout(0.25)
        self.head = nn.Linear(6, 7)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.dropout(self.embedding(tokens)))


def observation() -> Observation:
    model, tokens = Tagger(), torch.tensor([[1, 2, 3, 4]])
    loss = cross_entropy(model(tokens), torch.tensor([[2, 3, 4, 5]]))
    found = torch.autograd.grad(loss, list(model.parameters()))
    gradient = dict(zip(dict(model.named_parameters()), found, strict=True))
    update = Update("gradient", gradient, {}, 1, loss.item())
    threat = ThreatModel(knows=("batch-size",))
    return Observation(threat, model, cross_entropy, update, SPEC, 1, 0.1, (), 1, None, None, (), task=TASK)


def test_a_spec_says_what_its_examples_are() -> None:
    assert (SPEC.tokens, SPEC.dtype) == (4, torch.long)
    images = InputSpec((1, 2, 2), 3, (0.0,), (1.0,))
    assert (images.tokens, images.dtype) == (None, None)


def test_dropout_is_found_behind_an_embedding() -> None:
    (site,) = dropout_sites(Tagger(), SPEC.shape, 2, SPEC.dtype)
    assert (site.name, site.rate, site.shape) == ("dropout", 0.25, (2, 4, 6))
    assert mask_not_batch_first(Tagger(), SPEC.shape, SPEC.dtype) is None


def test_repeated_sentences_are_one_example_and_another_label_makes_two() -> None:
    tokens = torch.tensor([[1, 2], [3, 4]])
    first, second = Batch(tokens, tokens + 1), Batch(tokens.flip(0), torch.tensor([[4, 5], [2, -100]]))
    assert [own.tolist() for own in examples.example_indices([first, second])] == [[0, 1], [1, 2]]
    assert examples.unique_examples([first, second]).labels.tolist() == [[2, 3], [4, 5], [2, -100]]


def test_sentences_are_shared_out_as_examples_of_one_class() -> None:
    labels = torch.randint(7, (20, 4), generator=torch.Generator().manual_seed(0))
    for scheme in ("iid", "dirichlet", "quantity-skew"):
        shares = partition(labels, 3, torch.Generator().manual_seed(0), scheme=scheme)
        assert torch.cat(list(shares)).sort().values.tolist() == list(range(20))
        told = describe_partition(shares, labels, scheme=scheme, class_names=("text",))
        assert sum(sum(counts) for _, counts in told.class_counts) == 20


@pytest.mark.parametrize(
    "name",
    [n for n, m in registry.methods("attack", Attack).items() if "text" not in m.make.modalities],  # type: ignore[attr-defined]
)
def test_attacks_on_other_things_refuse_text_in_one_sentence(name: str) -> None:
    method = registry.get("attack", name)
    seen, attack = observation(), method.make(method.config())
    threat = ThreatModel(knows=tuple(attack.needs), server="malicious" if attack.crafts_model else "honest-but-curious")
    with pytest.raises(NotApplicable, match=r"^works on [a-z ]+, and the examples are text$"):
        attack(replace(seen, threat=threat), seeding.generator(0, "attack"))


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Any]:
    """A federation of a tiny language model on ten short documents."""
    words = ["rain", "falls", "on", "seven", "green", "hills", "and", "nobody", "counts", "them"]
    documents = [" ".join(words[(d + 3 * k) % 10] for k in range(6)) + f". Number {d} ends here." for d in range(10)]
    (tmp_path / "text.txt").write_text("\n\n".join(documents))
    return {
        "data": {"name": "text-file", "path": str(tmp_path / "text.txt"), "length": 12, "words": 20},
        "model": {"name": "tiny-llama", "width": 16, "hidden": 16, "dropout": 0.1},
        "partition": {"scheme": "by-user"},
        "federation": {"clients": 3, "batch_size": 2},
    }


def built(scenario: Callable[..., Scenario], tables: dict[str, Any], **changes: Any) -> World:
    return worlds.build(scenario(**{**tables, **changes}))


def started(world: World) -> None:
    world.check()
    world.models.new()


def test_a_client_trains_on_sentences_and_can_be_replayed(
    scenario: Callable[..., Scenario], tables: dict[str, Any]
) -> None:
    settings = {**tables["federation"], "algorithm": "fedavg", "local_epochs": 2, "optimizer": {"name": "adam"}}
    world = built(scenario, tables, federation=settings)
    world.check()
    update, truth = local_training(world, world.models.first_weights, 1, 0)
    assert truth.batches[0].inputs.shape == (2, 12)
    assert len(truth.masks[0]) == 7
    entry = WireEntry(1, 0, world.models.first_weights, update)
    assert replay(world, entry).matches
    tested = evaluate_model(world, world.models.first_weights)
    assert list(tested) == ["test_accuracy", "test_loss"]
    labels = world.data.dataset.test.labels
    outputs = world.models.load_weights(world.models.first_weights).eval()(world.data.dataset.test.inputs)
    assert tested["test_loss"] == pytest.approx(cross_entropy(outputs, labels).item())
    assert tested["test_accuracy"] == pytest.approx(
        float((outputs.argmax(-1) == labels)[labels != -100].double().mean())
    )


def test_clients_trained_together_send_the_same(scenario: Callable[..., Scenario], tables: dict[str, Any]) -> None:
    world = built(scenario, tables, federation={**tables["federation"], "engine": "vectorized"})
    cohort.check(world)
    trained = cohort.cohort_training(world, world.models.first_weights, 1, [0, 2], [{}, {}])
    for client, (vector, count, loss) in zip((0, 2), trained.rows(), strict=True):
        alone, _ = local_training(world, world.models.first_weights, 1, client)
        expected = world.models.layout.flat(alone.tensors, alone.buffers)
        assert float((vector - expected).norm()) <= cohort.ROUNDING * float(expected.norm())
        assert (count, loss) == (alone.examples, pytest.approx(alone.loss, rel=cohort.ROUNDING))


def around(defense: str, tables: dict[str, Any]) -> dict[str, Any]:
    """The tables that some defenses want to stand in."""
    if defense == "dp-sgd":
        return {"federation": {**tables["federation"], "sampling": "poisson"}}
    if defense == "distributed-dp":
        return {"secure_aggregation": {}, "threat": {"view": "sum"}}
    return {}


@pytest.mark.parametrize(
    "name", [n for n, m in registry.methods("defense", Defense).items() if "text" in m.make.modalities]
)  # type: ignore[attr-defined]
def test_defenses_that_say_so_work_on_text(
    name: str, scenario: Callable[..., Scenario], tables: dict[str, Any]
) -> None:
    world = built(scenario, tables, defenses=[{"name": name}], **around(name, tables))
    world.check()
    update, _ = local_training(world, world.models.first_weights, 1, 0)
    assert all(bool(tensor.isfinite().all()) for tensor in update.tensors.values())


def test_several_masks_stand_in_front_of_the_scores_of_tokens(
    scenario: Callable[..., Scenario], tables: dict[str, Any]
) -> None:
    several = registry.get("component", "multi-sample-dropout")
    component = several.make(several.config.model_validate({"samples": 3}))
    model = component.prepare(Tagger(), torch.Generator())
    federation = replace(
        built(scenario, tables).facts.federation, shape=(4,), classes=7, vocabulary=7, label_shape=(4,)
    )
    assert component.refuses(federation, model) is None
    tokens = torch.randint(7, (2, 4), generator=torch.Generator().manual_seed(0))
    assert model(tokens).shape == (2, 3, 4, 7)
    assert cross_entropy(model(tokens), tokens).shape == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"components": [{"name": "cutmix"}]}, "component 'cutmix' does not fit: it works on images"),
        ({"label_noise": {"rate": 0.2}}, "label_noise: it changes the class of an image"),
        ({"model": {"name": "lenet"}}, "reads images"),
        ({"model": {"name": "mlp"}}, "model 'mlp' reads numbers, got tokens"),
    ],
)
def test_what_does_not_work_on_text_is_refused_before_the_first_round(
    changes: dict[str, Any], message: str, scenario: Callable[..., Scenario], tables: dict[str, Any]
) -> None:
    with pytest.raises(FedsimError, match=message):
        started(built(scenario, tables, **changes))


class ReaderConfig(Config):
    """No settings."""


class Reader(Attack[ReaderConfig]):
    """Always guesses the same sentence, of a text or of nobody."""

    modalities = IMAGES_AND_TEXT

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        guess = torch.tensor([[*b"<b>\x1b[31mno", *[-1] * 2]])
        return Reconstruction(guess, torch.zeros(1), None, 0.5, 1, 1, ((1, 0.5),), "guessed")


def test_a_run_on_text_is_scored_told_and_reported_with_its_sentences_escaped(
    scenario: Callable[..., Scenario], tables: dict[str, Any], tmp_path: Path, own_methods: None
) -> None:
    registry.attack("reader", summary="always guesses the same")(Reader)
    threat = {"knows": ["batch-size", "dropout-rates"], "victims": 2}
    told = scenario(**{**tables, "attacks": [{"name": "reader"}], "threat": threat})
    out = StringIO()
    folder = tmp_path / "run"
    folder.mkdir()
    record = runner.run(
        told, RunFolder(folder), display.PlainLines(Console(file=out, width=200)), command="test", earlier=None
    )
    (attack,) = record.arms[0].attacks
    federation = told.federation
    trained = federation.clients * federation.batch_size * told.data.settings["length"]
    assert [own.tokens for own in record.arms[0].rounds] == [trained] * federation.rounds
    assert "tokens/s" in out.getvalue()
    assert record.arms[0].replay_matches
    assert [len(victim.scores) for victim in attack.victims] == [2, 2]
    assert [victim.failure for victim in attack.victims] == [None, None]
    assert {own.guess for victim in attack.victims for own in victim.scores} == {"", "<b>\x1b[31mno"}
    assert attack.value is not None
    assert attack.value.value == 0.0
    assert "0 of 2 sentences exact" in out.getvalue()
    assert "\x1b" not in out.getvalue()
    ending = StringIO()
    to_terminal(endings.figures(record), Console(file=ending, width=250))
    for heading in ("sentences exact", "tokens right", "mean ROUGE-1", "mean ROUGE-L"):
        assert heading in ending.getvalue()
    assert "PSNR" not in ending.getvalue()
    assert not any("normalised" in told or "labels" in told for told in record.threat_model)
    page = writing.build(folder).read_text()
    assert "What was read" in page
    assert "No pictures were stored" not in page
    assert "A sentence counts as a success by this rule: every token right." in page
    for size in "12L":
        assert f'<th scope="col" class="number">mean ROUGE-{size}</th>' in page
    assert "PSNR" not in page[page.index('id="results"') : page.index("How these numbers are made")]
    assert "none of 4 sentences of 2 updates was" in page
    assert "&lt;b&gt;" in page
    assert "<b>\x1b" not in page
    rows = (folder / "scores.csv").read_text().splitlines()
    assert len(rows) == 1 + 4
