"""vertical: infer labels and features from the messages at the cut of a split model.

Feature parties hold columns; the label party holds the labels and the top model. They train on the scenario's examples,
separately from its clients. A feature party infers labels, or the label party reconstructs a party's columns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from fedsim.core import registry, seeding
from fedsim.core.choices import Choice
from fedsim.core.errors import ScenarioError, did_you_mean
from fedsim.core.registry import Kind, question
from fedsim.processes.methods import MethodRunner, require_tensor
from fedsim.questions.base import Evidence, Question, QuestionContext, run_or_fail
from fedsim.questions.vertical.hooks import CutAttack, CutDefense, CutLabelAttack, CutSteering
from fedsim.questions.vertical.metrics import (
    cut_label_accuracy,
    cut_r_squared,
    exact_rows,
    label_auc,
    nearer_than_public,
    split_accuracy,
)
from fedsim.questions.vertical.observe import (
    SplitFederation,
    SplitRun,
    Variant,
    blank_view,
    features_view,
    labels_view,
    with_raw_columns,
    with_shuffled_gradients,
)
from fedsim.questions.vertical.training import SplitTraining
from fedsim.questions.vertical.types import CutKnowledge, CutStep, CutView
from fedsim.record import Finding, Interval
from fedsim.scenario.choices import ReportedChoice, check_reported
from fedsim.scenario.world import World
from fedsim.threat.answers import check_shape

_BINARY = 2


if TYPE_CHECKING:  # the module imports flwr, which would slow down a list of methods
    from fedsim.questions.base import MessageHandler


class CutAttackChoice(ReportedChoice):
    """An attack at the cut with its party, its epoch and its name in the report."""

    base: ClassVar[type[Any]] = CutAttack
    party: str = Field(
        default="",
        description=("party that infers the labels, or the party with the attacked columns; unset: the first party"),
    )
    epoch: int = Field(default=1, ge=1, description="whose messages are read")
    label: str = Field(default="", description="name in the report; attack and epoch when empty")

    @property
    def report_name(self) -> str:
        """The name in the report."""
        return self.label or f"{self.name} (epoch {self.epoch})"

    @property
    def attack(self) -> type[CutAttack[Any]]:
        """The class of the attack."""
        return registry.get("attack", self.name).make  # type: ignore[return-value]


class CutDefenseChoice(Choice):
    """A defense of labels in the returned gradients."""

    kind: ClassVar[Kind | None] = "defense"
    base: ClassVar[type[Any]] = CutDefense


class Vertical(SplitTraining):
    """Settings of the training, the attackers' knowledge, the defense and the attacks."""

    engine: Literal["local", "flower"] = Field(
        default="local",
        description="whether parties are parts of this program, or clients of Flower on the federation's engine",
    )
    knows: tuple[CutKnowledge, ...] = Field(
        default=(), description="knowledge granted to attackers in addition to the messages at the cut"
    )
    attacked_rows: int = Field(default=200, ge=10, description="number of attacked examples")
    labels_per_class: int = Field(
        default=1, ge=1, description="labels of each class that are known, where few-labels is granted"
    )
    defense: CutDefenseChoice | None = Field(default=None, description="of the party with labels")
    attacks: tuple[CutAttackChoice, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _attacks_fit(self) -> Vertical:
        check_reported(self.attacks)
        names = [party.name for party in self.parties]
        for number, attack in enumerate(self.attacks):
            if attack.party and attack.party not in names:
                raise ValueError(
                    f"attacks.{number}.party: unknown party '{attack.party}'.{did_you_mean(attack.party, names)}"
                )
            if attack.epoch > self.epochs:
                raise ValueError(f"attacks.{number}.epoch is {attack.epoch}, and the last epoch is {self.epochs}")
        return self


@final
@question(
    "vertical", summary="what do the messages at the cut of a vertically split model reveal?", related="2102.08504"
)
class VerticalQuestion(Question[Vertical]):
    """Trains a split model, and attacks labels and columns from the view of a single party, with controls."""

    metric: ClassVar[str] = "cut_label_accuracy"
    title: ClassVar[str] = "What crosses the cut?"
    summary: ClassVar[str] = (
        "Feature parties hold parts of each example; the label party holds the labels and the "
        "top of the model. Each party sends a vector of cut-layer activations per example and "
        "receives a gradient. Attacks of a feature party infer labels; attacks of the label "
        "party infer a party's columns."
    )
    method: ClassVar[str] = (
        "Labels: chance is the share of the commonest label. Each attack is compared with the "
        "same attack after training on permuted labels, with gradients of other examples, with "
        "the mean label as every label, and, if it uses the party's bottom model, on the raw "
        "columns; and with ridge regression on the raw columns with the same known labels. "
        "Columns: 0 is the mean of public examples, and chance is the better of that mean and "
        "the mean of the normalised data; each attack is compared with the public example "
        "nearest to the truth, and with the same attack on a party with zero input. Intervals: "
        "Wilson's, or a bootstrap over examples."
    )

    def message_handlers(self) -> Mapping[str, MessageHandler]:
        """Return the handlers of a party: forward pass to the cut layer, and training on returned gradients."""
        from fedsim.questions.vertical import client  # noqa: PLC0415 - it loads flwr, for which a list does not wait

        return {client.EMBED: client.embed, client.CUT: client.cut}

    def describe_attacker(self) -> Iterator[str]:
        """Yield the attackers' view and knowledge."""
        known = ", ".join(self.config.knows) or "nothing"
        yield (
            f"In a separate split training with {len(self.config.parties)} parties, attackers "
            f"see the messages at the cut of a single party. In addition they know: {known}."
        )

    @classmethod
    def example(cls) -> Mapping[str, Any]:
        """Return the tables of a scenario with one attack."""
        return {
            "data": {"name": "breast-cancer"},
            "vertical": {
                "parties": [{"name": "a", "columns": [0, 10]}, {"name": "b", "columns": [20, 30]}],
                "epochs": 1,
                "attacked_rows": 100,
                "knows": ["few-labels", "top"],
                "attacks": [{"name": "cut-line"}],
            },
        }

    def check(self, world: World) -> None:
        """Check that the parties' parts fit the data, and that attacks have the required knowledge."""
        _federation(self.config, world).check()
        if self.config.engine == "flower" and world.scenario.federation.engine == "vectorized":
            raise ScenarioError(
                "vertical.engine is 'flower', and federation.engine is 'vectorized', which has no messages. Set "
                "federation.engine to 'local', 'ray' or 'superlink'."
            )
        for number, choice in enumerate(self.config.attacks):
            lacking = sorted(choice.attack.needs - frozenset(self.config.knows))
            if lacking:
                raise ScenarioError(
                    f"vertical.attacks.{number}: '{choice.name}' needs {', '.join(lacking)}. Add it to vertical.knows."
                )

    def run(self, evidence: Evidence, work: QuestionContext) -> Iterator[Finding]:
        """Yield the model's accuracy, the label baselines, then the findings and controls of each attack."""
        study = _Study(self.config, evidence.world, work)
        yield study.utility("the split model", study.run("as it is"))
        yield from study.baselines()
        for choice in self.config.attacks:
            yield from run_or_fail(work, choice, partial(study.findings, choice), study.finding(choice))


def _federation(config: Vertical, world: World, salt: bytes = b"") -> SplitFederation:
    watched = frozenset(attack.epoch for attack in config.attacks)
    return SplitFederation(config, world.data.dataset, world.scenario.seed, watched, salt)


class _Study:
    """Trainings of one scenario, and findings of attacks on them."""

    def __init__(self, config: Vertical, world: World, work: QuestionContext) -> None:
        self._config, self._seed, self._confidence = config, world.scenario.seed, world.scenario.scoring.confidence
        self._world, self._federation, self._work = world, _federation(config, world, work.salt), work
        self._sizes = (config.attacked_rows, config.labels_per_class)
        self.run = cache(self._train)

    @cached_property
    def _defense(self) -> CutDefense[Any] | None:
        choice = self._config.defense
        return None if choice is None else choice.make("defense")

    def _train(self, variant: Variant, party: str = "") -> SplitRun:
        """Return the training of a variant; `party` has zero input in variant `input zero`."""
        run = partial(self._federation.run, variant, self._relabel, self._cover, party, self._watch(variant))
        return self._run_over_wire(run) if variant == "as it is" else run()

    def _run_over_wire(self, run: Callable[..., SplitRun]) -> SplitRun:
        """Run a training over the scenario's engine; controls always run in-process."""
        if self._config.engine == "local":
            return run()
        from fedsim.questions.vertical.server import run_over_flower  # noqa: PLC0415 - it loads flwr

        return run_over_flower(self._world, self._work.check_cancelled, lambda wire: run(wire=wire))

    def _watch(self, label: str) -> Callable[[int], None]:
        steps = self._config.epochs * -(-len(self._federation.dataset.train) // self._config.batch_size)
        return lambda number: self._work.progress(f"{label}: step", number + 1, steps)

    def _relabel(self, labels: Tensor) -> Tensor:
        if self._defense is None:
            return labels
        source = seeding.generator(self._seed, "labels at the cut")
        return self._defense.relabel(labels, self._federation.dataset.spec.classes, source)

    def _cover(self, step: CutStep, labels: Tensor, number: int) -> dict[str, Tensor]:
        if self._defense is None:
            return dict(step.down)
        source = seeding.generator(self._seed, "gradients at the cut", number)
        return {
            party: self._defense.perturb_gradients(gradients, labels, source) for party, gradients in step.down.items()
        }

    def utility(self, label: str, run: SplitRun) -> Finding:
        """Return a split model's accuracy on the test set."""
        test = self._federation.dataset.test
        outputs = run.model.outputs(self._federation.public)
        return Finding(
            question="vertical",
            label=label,
            role="context",
            metric="split_accuracy",
            value=split_accuracy(outputs, test.labels, self._confidence),
            chance_level=_commonest(test.labels),
        )

    def baselines(self) -> Iterator[Finding]:
        """Yield the label accuracy of a ridge on raw columns, for each party with known labels."""
        choices = [
            attack
            for attack in self._config.attacks
            if issubclass(attack.attack, CutLabelAttack) and "few-labels" in self._knows(attack)
        ]
        for party in dict.fromkeys(self._party(choice) for choice in choices):
            rows, known = self._federation.choose_examples(self.run("as it is"), *self._sizes)
            columns, probe = self._federation.parts[party].flatten(1), Choice(name="ridge").make("component")
            labels = self.run("as it is").labels[known]
            learned = probe.fit(columns[known], labels, seeding.generator(self._seed, "ridge at the cut"))
            guessed = probe.predict(learned, columns[rows]).argmax(1)
            yield self._labels_finding(guessed, rows).model_copy(
                update={
                    "label": f"a ridge on the raw columns of '{party}'",
                    "scope": {"party": party, "known labels": len(known)},
                    "role": "context",
                }
            )

    def findings(self, choice: CutAttackChoice, attack: MethodRunner) -> Iterator[Finding]:
        """Yield the findings of an attack and its controls."""
        if issubclass(choice.attack, CutLabelAttack):
            yield from self._labels(choice, attack)
        elif issubclass(choice.attack, CutSteering):
            yield from self._steering_findings(choice, attack)
        else:
            yield from self._features(choice, attack)

    def finding(self, choice: CutAttackChoice) -> Finding:
        """Return the finding of an attack without its value."""
        return Finding(
            question="vertical",
            label=choice.report_name,
            method=choice.name,
            settings=choice.settings,
            scope={"party": self._party(choice), "epoch": choice.epoch},
            metric=choice.attack.metric,
        )

    def _party(self, choice: CutAttackChoice) -> str:
        return choice.party or self._config.parties[0].name

    def _knows(self, choice: CutAttackChoice) -> frozenset[CutKnowledge]:
        return frozenset(self._config.knows) & (choice.attack.needs | choice.attack.uses)

    def _answer(self, choice: CutAttackChoice, attack: MethodRunner, view: CutView) -> Tensor:
        source = seeding.generator(self._seed, f"attack at the cut {choice.report_name}")
        answer = require_tensor(attack.call(CutAttack.__call__, view, generators=[source]))
        is_labels = issubclass(choice.attack, CutLabelAttack)
        return check_shape(answer, (len(view.rows), *((view.classes,) if is_labels else view.shape)))

    def _labels(self, choice: CutAttackChoice, attack: MethodRunner) -> Iterator[Finding]:
        self._work.progress(choice.report_name, 1, 1)
        view = self._labels_view(choice, "as it is")
        yield from self._scored_labels(choice, attack, view, "", "attack")
        permuted = self._labels_view(choice, "labels permuted")
        trained_on = self.run("labels permuted").labels
        yield from self._scored_labels(choice, attack, permuted, ", labels permuted", "context")
        yield from self._scored_labels(choice, attack, permuted, ", the permuted labels", "context", trained_on)
        if choice.attack.reads == "gradients":
            shuffled = with_shuffled_gradients(view, self._seed)
            yield from self._scored_labels(choice, attack, shuffled, ", gradients shuffled", "negative-control")
            mean = self._labels_view(choice, "mean label")
            yield from self._scored_labels(choice, attack, mean, ", mean label", "context")
        else:
            raw = with_raw_columns(view)
            yield from self._scored_labels(choice, attack, raw, ", raw columns", "context")

    def _labels_view(self, choice: CutAttackChoice, variant: Variant) -> CutView:
        run, party = self.run(variant), self._party(choice)
        return labels_view(self._federation, run, party, choice.epoch, self._knows(choice), self._sizes)

    def _scored_labels(
        self,
        choice: CutAttackChoice,
        attack: MethodRunner,
        view: CutView,
        suffix: str,
        role: Any,
        truth: Tensor | None = None,
    ) -> Iterator[Finding]:
        begin = time.perf_counter()
        scores = self._answer(choice, attack, view)
        seconds = time.perf_counter() - begin
        known = self.finding(choice)
        scored = self._labels_finding(scores.argmax(1), view.rows, truth)
        truth = self._federation.train.labels if truth is None else truth
        update = {
            "label": f"{choice.report_name}{suffix}",
            "role": role,
            "value": scored.value,
            "chance_level": scored.chance_level,
        }
        if view.classes == _BINARY:
            area = label_auc(scores[:, 1] - scores[:, 0], truth[view.rows], self._resampler, self._confidence)
            update["extra_metrics"] = {} if area is None else {"label_auc": area}
        yield known.model_copy(update={**update, "seconds": seconds})

    def _labels_finding(self, guessed: Tensor, rows: Tensor, truth: Tensor | None = None) -> Finding:
        labels = (self._federation.train.labels if truth is None else truth)[rows]
        value = cut_label_accuracy(guessed, labels, self._confidence)
        return Finding(
            question="vertical", label="", metric="cut_label_accuracy", value=value, chance_level=_commonest(labels)
        )

    @property
    def _resampler(self) -> np.random.Generator:
        return np.random.default_rng(seeding.derive(self._seed, "bootstrap"))

    def _features(self, choice: CutAttackChoice, attack: MethodRunner) -> Iterator[Finding]:
        self._work.progress(choice.report_name, 1, 1)
        party = self._party(choice)
        view = self._features_view(choice, self.run("as it is"))
        yield self._scored_features(choice, view, self._answer(choice, attack, view), "", "attack")
        yield self._nearest(choice, view)
        if choice.attack.reads == "embeddings":
            blind = self._features_view(choice, self.run("input zero", party))
            yield self._scored_features(
                choice, blind, self._answer(choice, attack, blind), ", input zero", "negative-control"
            )

    def _features_view(self, choice: CutAttackChoice, run: SplitRun) -> CutView:
        return features_view(
            self._federation,
            run,
            self._party(choice),
            choice.epoch,
            choice.attack.reads,
            self._knows(choice),
            self._sizes,
        )

    def _steering_findings(self, choice: CutAttackChoice, attack: MethodRunner) -> Iterator[Finding]:
        """Yield the findings of a malicious label party that sends crafted gradients, and the model's utility."""
        party, source = self._party(choice), seeding.generator(self._seed, f"steering {choice.report_name}")
        attack.call(CutSteering.begin, blank_view(self._federation, party, self._knows(choice)), generators=[source])

        def steer(step: CutStep, _labels: Tensor, number: int) -> dict[str, Tensor]:
            generator = seeding.generator(self._seed, f"steering {choice.report_name}", number)
            gradient = require_tensor(attack.call(CutSteering.steer, step.up[party], generators=[generator]))
            return {**step.down, party: gradient}

        run = self._run_over_wire(partial(self._federation.run, cover=steer, on_step=self._watch(choice.report_name)))
        view = self._features_view(choice, run)
        yield self._scored_features(choice, view, self._answer(choice, attack, view), "", "attack")
        yield self._nearest(choice, view)
        yield self.utility(f"the split model, steered by {choice.report_name}", run)

    def _scored_features(
        self, choice: CutAttackChoice, view: CutView, guesses: Tensor, suffix: str, role: Any
    ) -> Finding:
        errors, of_mean, of_nearest = self._errors(view, guesses)
        extra: dict[str, Interval] = {
            "exact_rows": exact_rows(guesses, self._originals(view), self._confidence),
            "nearer_than_public": nearer_than_public(errors, of_nearest, self._confidence),
        }
        value = cut_r_squared(errors, of_mean, self._resampler, self._confidence)
        update = {"label": f"{choice.report_name}{suffix}", "role": role, "value": value, "extra_metrics": extra}
        update["chance_level"] = self._chance_of_features(view)
        return self.finding(choice).model_copy(update=update)

    def _nearest(self, choice: CutAttackChoice, view: CutView) -> Finding:
        """Return the explained variance of the nearest public example, which is selected by the ground truth."""
        _, of_mean, of_nearest = self._errors(view, self._originals(view))
        value = cut_r_squared(of_nearest, of_mean, self._resampler, self._confidence)
        label = f"{choice.report_name}, nearest public example"
        scope = {"party": view.party}
        update = {"label": label, "role": "context", "value": value, "chance_level": 0.0, "method": "", "settings": {}}
        return self.finding(choice).model_copy(update={**update, "scope": scope})

    def _chance_of_features(self, view: CutView) -> float:
        """Return the explained variance of the better constant guess: the public mean, or 0, the normalised mean."""
        of_zero, of_mean, _ = self._errors(view, torch.zeros_like(self._originals(view)))
        return max(0.0, 1.0 - float(of_zero.sum() / of_mean.sum()))

    def _originals(self, view: CutView) -> Tensor:
        return self._federation.parts[view.party][view.rows]

    def _errors(self, view: CutView, guesses: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the squared errors (N,) of guesses, of the mean of public examples, and of the nearest of them."""
        originals, public = self._originals(view).flatten(1), self._federation.public[view.party].flatten(1)
        of_nearest = torch.cdist(originals, public).amin(1).square()
        squares = ((guesses.flatten(1) - originals).square().sum(1), (public.mean(0) - originals).square().sum(1))
        return *squares, of_nearest


def _commonest(labels: Tensor) -> float:
    return float(labels.bincount().max() / len(labels))
