"""Whatever is checked works."""

from math import prod

import pytest
import torch
from torch import Tensor, nn

from fedsim.audit import AuditPlan, subject
from fedsim.audit.record import KNOWS
from fedsim.audit.searching import LatestGuess
from fedsim.audit.single_client import world_of
from fedsim.audit.training import train
from fedsim.audit.update_attacks import UpdateAttacker, updates, with_read_targets
from fedsim.core.nets.losses import NumberLoss
from fedsim.core.types import Batch, Step
from fedsim.questions.base import QuestionContext
from fedsim.threat.observe import observe


def test_rows_of_a_table_are_read_from_an_unchanged_model() -> None:
    torch.manual_seed(0)
    rows, labels = torch.randn(24, 6) * torch.tensor([1.0, 5.0, 1.0, 1.0, 0.1, 1.0]), torch.arange(24) % 2
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
    own = subject.check_subject(subject.Subject(model, None, [(rows, labels)]), "rows")
    assert (own.task.noun, own.task.name, own.dataset.spec.shape) == ("row", "tabular", (6,))
    world = world_of(own, AuditPlan(target="rows"), 1)
    found = UpdateAttacker(KNOWS, lambda _said: None).inspect(world, updates(world), QuestionContext(), 1, 10, 30.0)
    assert found.value.value == 1.0
    assert found.victims[0].scores[0].values["number_error"] < 1e-3


ROWS = torch.rand(24, 6, generator=torch.Generator().manual_seed(1))
PICTURES = torch.rand(24, 1, 4, 4, generator=torch.Generator().manual_seed(1))
INK = PICTURES > 0.5
WINDOWS = torch.rand(24, 6, 2, generator=torch.Generator().manual_seed(1))


def dense(inputs: int, *outputs: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, prod(outputs)), nn.Unflatten(1, outputs)
    )


OUTPUTS = {
    "one number": (dense(6, 1), nn.MSELoss(), (ROWS, ROWS[:, :1] + ROWS[:, 1:2]), "regression", "target_read"),
    "three numbers": (dense(6, 3), nn.HuberLoss(delta=9.0), (ROWS, ROWS[:, :3] + 0.1), "regression", "target_read"),
    "no column": (
        nn.Sequential(dense(6, 1), nn.Flatten(0)),
        nn.MSELoss(),
        (ROWS, ROWS[:, 0] + ROWS[:, 1]),
        "regression",
        "target_read",
    ),
    "whole numbers": (
        nn.Sequential(dense(6, 1), nn.Flatten(0)),
        nn.PoissonNLLLoss(),
        (ROWS, (9 * ROWS[:, 0]).long()),
        "regression",
        "target_read",
    ),
    "a set": (dense(16, 5), nn.BCEWithLogitsLoss(), (PICTURES, (ROWS[:, :5] > 0.5).float()), "multi-label", "set_read"),
    "yes or no": (
        nn.Sequential(dense(6, 1), nn.Flatten(0)),
        lambda scores, labels: nn.functional.binary_cross_entropy_with_logits(scores, labels.float()),
        (ROWS, (ROWS[:, 0] > 0.5).long()),
        "multi-label",
        "set_read",
    ),
    "a map": (dense(16, 2, 4, 4), nn.CrossEntropyLoss(), (PICTURES, INK[:, 0].long()), "segmentation", "mask_iou"),
    "a mask": (dense(16, 1, 4, 4), nn.BCEWithLogitsLoss(), (PICTURES, INK.float()), "segmentation", "mask_iou"),
    "a series": (dense(12, 3), nn.MSELoss(), (WINDOWS, WINDOWS[:, :3, 0] + 0.1), "series", "target_read"),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_what_is_no_single_class_is_read_with_its_targets_though_labels_are_granted(kind: str) -> None:
    model, loss, pair, task, read = OUTPUTS[kind]
    own = subject.check_subject(subject.Subject(model, loss, [pair]), kind)
    assert own.task.name == task
    assert (own.loss.loss if isinstance(own.loss, NumberLoss) else own.loss) is loss
    assert any(note.startswith("Accuracy is the share of") for note in own.notes)
    world = world_of(own, AuditPlan(target=kind), 1)
    world.check()
    finding = UpdateAttacker(KNOWS, lambda _said: None).inspect(world, updates(world), QuestionContext(), 1, 10, 30.0)
    assert finding.value.value == 1.0
    assert finding.victims[0].scores[0].values[read] == 1.0
    assert "targets are read from the output layer" in str(finding.victims[0].notes)


def squared(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs - labels).square().mean()


def squared_of_column(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs.flatten() - labels).square().mean()


LOSSES = {
    "torch's": nn.MSELoss(),
    "one that broadcasts in silence": squared,
    "one that flattens outputs": squared_of_column,
    "one that flattens both": lambda outputs, labels: squared(outputs.flatten(), labels.flatten()),
}


@pytest.mark.filterwarnings("error:Using a target size")
@pytest.mark.parametrize("labels", [(24,), (24, 1)])
@pytest.mark.parametrize("outputs", [(), (1,)])
@pytest.mark.parametrize("kind", LOSSES)
def test_a_number_may_have_a_dimension_of_its_own_in_outputs_or_labels_or_both(
    kind: str, outputs: tuple[int, ...], labels: tuple[int, ...]
) -> None:
    numbers, loss = ROWS[:, 0] + 3 * ROWS[:, 1], LOSSES[kind]
    model = nn.Sequential(dense(6, 1), nn.Unflatten(0, (-1, 1)), nn.Flatten(0 if outputs == () else 1))
    own = subject.check_subject(subject.Subject(model, loss, [(ROWS, numbers.reshape(labels))]), "rows")
    shown = own.dataset.train
    assert shown.labels.shape == (12, *outputs)
    answers = model(shown.inputs).detach()
    expected = squared(answers.flatten(), shown.labels.flatten())
    assert float(own.loss(answers, shown.labels)) == pytest.approx(float(expected))
    world = world_of(own, AuditPlan(target="rows"), 2)
    finding = UpdateAttacker(KNOWS, lambda _said: None).inspect(world, updates(world), QuestionContext(), 1, 10, 30.0)
    assert [item.values["target_read"] for item in finding.victims[0].scores] == [1.0, 1.0]
    assert 0.0 <= train(world, 2, 5.0).summary.accuracy <= 1.0


def test_a_yes_or_no_may_have_a_dimension_of_its_own() -> None:
    model, answers = nn.Sequential(dense(6, 1), nn.Flatten(0)), (ROWS[:, :1] > 0.5).float()
    own = subject.check_subject(subject.Subject(model, nn.BCEWithLogitsLoss(), [(ROWS, answers)]), "rows")
    assert (own.task.name, own.dataset.train.labels.shape) == ("multi-label", (12,))
    assert 0.0 <= train(world_of(own, AuditPlan(target="rows"), 4), 2, 5.0).summary.accuracy <= 1.0


CLASSES = (torch.arange(24) * 7) % 3
ONE_HOT = nn.functional.one_hot(CLASSES, 3).float()
CROSS_ENTROPIES = {
    "torch's": nn.CrossEntropyLoss(),
    "a function": nn.functional.cross_entropy,
    "none given": None,
    "weighted": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 5.0])),
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.2),
}


@pytest.mark.parametrize("kind", CROSS_ENTROPIES)
def test_one_hot_labels_of_cross_entropy_are_classes_with_the_loss_of_the_user(kind: str) -> None:
    model, loss = dense(6, 3), CROSS_ENTROPIES[kind]
    own = subject.check_subject(subject.Subject(model, loss, [(ROWS, ONE_HOT)]), "rows")
    assert own.task.labels_in_words == "classes"
    assert own.dataset.train.labels.tolist() == CLASSES[:12].tolist()
    assert own.dataset.test.labels.tolist() == CLASSES[12:].tolist()
    assert own.is_cross_entropy is (kind not in ("weighted", "smoothed"))
    answers = model(ROWS[:12]).detach()
    expected = (loss or nn.functional.cross_entropy)(answers, ONE_HOT[:12])
    assert float(own.loss(answers, CLASSES[:12])) == pytest.approx(float(expected))


@pytest.mark.parametrize(
    ("loss", "labels", "kind"),
    [
        (nn.BCEWithLogitsLoss(), ONE_HOT, "sets of 0 and 1"),
        (nn.CrossEntropyLoss(), torch.cat([ONE_HOT[:23], torch.tensor([[1.0, 1.0, 0.0]])]), "sets of 0 and 1"),
        (nn.CrossEntropyLoss(), torch.cat([ONE_HOT[:23], torch.zeros(1, 3)]), "sets of 0 and 1"),
        (nn.MSELoss(), ONE_HOT.roll(1, 0) * 0.5 + 0.5 * ONE_HOT, "numbers"),
    ],
    ids=["binary", "two classes", "no class", "numbers"],
)
def test_other_labels_of_0_and_1_stay(loss: nn.Module, labels: Tensor, kind: str) -> None:
    own = subject.check_subject(subject.Subject(dense(6, 3), loss, [(ROWS, labels)]), "rows")
    assert own.task.labels_in_words == kind
    assert torch.equal(own.dataset.train.labels, labels[:12])
    assert not any("probabilities" in note for note in own.notes)


def test_class_probabilities_of_cross_entropy_are_named() -> None:
    soft = 0.9 * ONE_HOT + 0.1 / 3
    own = subject.check_subject(subject.Subject(dense(6, 3), nn.CrossEntropyLoss(), [(ROWS, soft)]), "rows")
    assert "Labels are class probabilities: attacks and defenses that need classes are left out." in own.notes
    assert torch.equal(own.dataset.train.labels, soft[:12])


def test_a_captured_reply_has_the_same_classes() -> None:
    model, batch = dense(6, 3), Batch(ROWS[:4], ONE_HOT[:4])
    reply = subject.ClientReply({name: torch.ones_like(one) for name, one in model.named_parameters()}, (batch,), ())
    own = subject.check_subject(subject.Subject(model, nn.CrossEntropyLoss(), [(ROWS, ONE_HOT)], reply=reply), "rows")
    assert own.subject.reply.batches[0].labels.tolist() == CLASSES[:4].tolist()


def test_a_search_that_was_granted_targets_reads_none() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2))
    own = subject.check_subject(subject.Subject(model, nn.MSELoss(), [(PICTURES, ROWS[:, :2] + 0.1)]), "convolutions")
    world = world_of(own, AuditPlan(target="convolutions"), 2)
    victim = next(updates(world))
    latest = LatestGuess(step=Step(1, 1, 1, 0.5, 0.5, victim.examples.inputs))
    guess = latest.best(observe(victim, KNOWS))
    assert not isinstance(guess, str)
    assert torch.equal(guess.labels, victim.examples.labels)
    assert bool(with_read_targets(victim, guess, latest).labels.isnan().all())


def test_the_accuracy_of_numbers_is_compared_with_that_of_their_mean() -> None:
    own = subject.check_subject(subject.Subject(dense(6, 1), nn.MSELoss(), [(ROWS, ROWS[:, :1])]), "rows")
    summary = train(world_of(own, AuditPlan(target="rows"), 4), 2, 10.0).summary
    labels = own.dataset.test.labels
    spread = own.dataset.train.labels.double().std(0, correction=0)
    near = (labels - own.dataset.train.labels.mean(0)).abs() <= 0.5 * spread
    assert summary.majority_accuracy == pytest.approx(float(near.double().mean()))
    assert 0.0 <= summary.accuracy <= 1.0


def test_numbers_are_no_groups() -> None:
    own = subject.check_subject(subject.Subject(dense(6, 1), nn.MSELoss(), [(ROWS, ROWS[:, :1])]), "rows")
    assert own.groups[0].of(own.dataset.train) == []
