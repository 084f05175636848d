"""trees: infer facts about clients' rows from the boosted trees that they send.

Clients train on rows of the scenario's table, separately from its federation. Attacks on the server's view recover
counts, labels and values exactly, and guess boxes and rows, with public rows as baseline.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any, ClassVar, final

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from fedsim.core import registry, seeding
from fedsim.core.choices import Choice
from fedsim.core.registry import Kind, question
from fedsim.core.types import Batch
from fedsim.processes.methods import MethodRunner, require_tensor
from fedsim.questions.base import Evidence, Question, QuestionContext, run_or_fail
from fedsim.questions.trees.hooks import BoxAttack, LeafAttack, RowAttack, ThresholdAttack, TreeAttack, TreeDefense
from fedsim.questions.trees.metrics import (
    alone_in,
    box_bits,
    covered_share,
    find_occurring,
    leaf_counts_exact,
    match_boxes,
    near_scores,
    single_row_boxes,
    targets_exact,
    threshold_precision,
    trees_accuracy,
    trees_explained,
    value_gain,
    values_near,
)
from fedsim.questions.trees.observe import TreeFederation, TreesRun, Variant, boxes_of, leaf_sums
from fedsim.questions.trees.training import TreeTraining, load_xgboost, predict
from fedsim.questions.trees.types import RowBoxes, TreesView
from fedsim.record import Finding, Interval
from fedsim.record.findings import Role
from fedsim.scenario.choices import ReportedChoice, check_reported
from fedsim.scenario.world import World
from fedsim.threat.answers import check_bounds, check_count, check_shape


class TreeAttackChoice(ReportedChoice):
    """An attack on trees and its name in the report."""

    base: ClassVar[type[Any]] = TreeAttack

    @property
    def attack(self) -> type[TreeAttack[Any]]:
        """The class of the attack."""
        return registry.get("attack", self.name).make  # type: ignore[return-value]


class TreeDefenseChoice(Choice):
    """A defense of trees at the clients."""

    kind: ClassVar[Kind | None] = "defense"
    base: ClassVar[type[Any]] = TreeDefense


class Trees(TreeTraining):
    """Settings of the training, the defense and the attacks."""

    defense: TreeDefenseChoice | None = Field(default=None, description="of every client")
    attacks: tuple[TreeAttackChoice, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _titles_differ(self) -> Trees:
        check_reported(self.attacks)
        return self


@final
@question("trees", summary="what do clients' boosted trees reveal about their rows?", related="2506.07605")
class TreeQuestion(Question[Trees]):
    """Trains a federation of trees, and attacks every client's trees, with controls."""

    metric: ClassVar[str] = "leaf_counts_exact"
    title: ClassVar[str] = "What do trees reveal about rows?"
    summary: ClassVar[str] = (
        "Clients add boosted trees to a shared model and send them to the server. From each client's trees it reads "
        "counts and labels of leaves, values of the table, an interval for every value, and guesses of whole rows."
    )
    method: ClassVar[str] = (
        "Leaves: chance is the estimate from public rows in the same tree. Values: chance is "
        "the number that occur in the next client's rows. Boxes: chance is the best of rows "
        "with random leaves, of the boxes of as many public rows, and of the boxes' coverage "
        "of these rows without labels. Rows: values count within 0.319 standard deviations "
        "after the best matching, and the gain is over as many public rows, matched alike. An "
        "answer has at most as many boxes or rows as the client. Intervals: Wilson's, or a "
        "bootstrap over rows."
    )

    def describe_attacker(self) -> Iterator[str]:
        """Yield the server's view and knowledge."""
        yield (
            f"Of {self.config.clients} clients that train boosted trees, apart from the others, the server sees each "
            "one's trees. It knows eta and lambda, and holds the test set as public rows."
        )

    @classmethod
    def example(cls) -> Mapping[str, Any]:
        """Return the tables of a scenario with one attack."""
        return {
            "data": {"name": "breast-cancer"},
            "trees": {"clients": 2, "rows": 40, "columns": 5, "trees": 3, "attacks": [{"name": "boxes", "tries": 1}]},
        }

    def check(self, world: World) -> None:
        """Check that xgboost is installed, and that clients can train on the rows."""
        load_xgboost()
        _federation(self.config, world).check()

    def run(self, evidence: Evidence, work: QuestionContext) -> Iterator[Finding]:
        """Yield the model's utility, then the findings and controls of each attack."""
        study = _Study(self.config, evidence.world, work)
        yield study.utility()
        for choice in self.config.attacks:
            yield from run_or_fail(work, choice, partial(study.findings, choice), study.finding(choice))


def _federation(config: Trees, world: World, salt: bytes = b"") -> TreeFederation:
    defense = None if config.defense is None else config.defense.make("defense")
    return TreeFederation(config, world.data.dataset, world.scenario.seed, defense, salt)


class _Study:
    """Trainings of one scenario, and findings of attacks on them, over all clients."""

    def __init__(self, config: Trees, world: World, work: QuestionContext) -> None:
        self._config, self._seed, self._confidence = config, world.scenario.seed, world.scenario.scoring.confidence
        self._federation, self._work = _federation(config, world, work.salt), work

    @cached_property
    def _run(self) -> TreesRun:
        return self._train("as it is")

    @cached_property
    def _shuffled_run(self) -> TreesRun:
        return self._train("labels shuffled")

    def _train(self, variant: Variant) -> TreesRun:
        rounds = self._config.rounds
        return self._federation.run(
            variant, lambda number: self._work.progress(f"{variant}: round", number + 1, rounds)
        )

    @property
    def _resampler(self) -> np.random.Generator:
        return np.random.default_rng(seeding.derive(self._seed, "bootstrap"))

    def utility(self) -> Finding:
        """Return the model's performance on public rows."""
        public = self._federation.public
        outputs = predict(self._run.model, public.inputs)
        known = Finding(question="trees", label="the model", role="context", metric="trees_accuracy")
        if self._federation.objective == "reg:squarederror":
            return known.model_copy(
                update={
                    "metric": "trees_explained",
                    "value": trees_explained(outputs, public.labels),
                    "chance_level": 0.0,
                }
            )
        chance = float(public.labels.bincount().max() / len(public))
        value = trees_accuracy(outputs, public.labels, self._confidence)
        return known.model_copy(update={"value": value, "chance_level": chance})

    def finding(self, choice: TreeAttackChoice) -> Finding:
        """Return the finding of an attack without its value."""
        scope: dict[str, str | int | float] = {"clients": self._config.clients, "rows": self._config.rows}
        return Finding(
            question="trees",
            label=choice.report_name,
            method=choice.name,
            settings=choice.settings,
            scope=scope,
            metric=choice.attack.metric,
        )

    def findings(self, choice: TreeAttackChoice, attack: MethodRunner) -> Iterator[Finding]:
        """Yield the findings of an attack on every client's trees, and its controls."""
        begin = time.perf_counter()
        answers = self._answers(choice, attack, self._run)
        seconds = time.perf_counter() - begin
        known = self.finding(choice).model_copy(update={"seconds": seconds})
        if issubclass(choice.attack, LeafAttack):
            yield from self._leaves(known, answers, self._answers(choice, attack, self._shuffled_run))
        elif issubclass(choice.attack, ThresholdAttack):
            yield from self._values(known, answers)
        else:
            is_box = issubclass(choice.attack, BoxAttack)
            blind = self._answers(choice, attack, self._run, (BoxAttack if is_box else RowAttack).blind)
            yield from (self._boxes if is_box else self._rows)(known, answers, blind)

    def _answers(
        self,
        choice: TreeAttackChoice,
        attack: MethodRunner,
        run: TreesRun,
        function: Callable[..., Tensor] = TreeAttack.__call__,
    ) -> list[Tensor]:
        """Return an attack's answer for every client."""
        answers = []
        for client in range(self._config.clients):
            self._work.progress(f"{choice.report_name}: client", client + 1, self._config.clients)
            source = seeding.generator(self._seed, f"attack on trees {choice.report_name}", client)
            view = self._federation.view(run, client)
            answer = require_tensor(attack.call(function, view, generators=[source]))
            answers.append(self._check_answer(choice.attack, answer, view))
        return answers

    def _check_answer(self, attack: type[TreeAttack[Any]], answer: Tensor, view: TreesView) -> Tensor:
        """Check an answer's number of rows, and the bounds of its boxes.

        Raises:
            FedsimError: there are more guesses than the client has rows, so that the matching with the ground truth
                would select among them; or a box is invalid.
        """
        if issubclass(attack, LeafAttack):
            check_shape(answer, (len(view.first.trees[0].leaves), 2))
        elif issubclass(attack, ThresholdAttack):
            check_count(len(answer), self._config.rows * view.columns, "values")
            check_count(len(answer), len(answer.unique(dim=0)), "values, each listed once")
        else:
            check_count(len(answer), self._config.rows, "boxes" if issubclass(attack, BoxAttack) else "rows")
        if issubclass(attack, BoxAttack):
            check_bounds(answer[:, 1:])
        return answer

    @property
    def _other_clients(self) -> list[int]:
        """Return, for each client, the index of another client."""
        return [(client + 1) % self._config.clients for client in range(self._config.clients)]

    @cached_property
    def _strangers(self) -> Batch:
        """Return as many public rows as a client has."""
        return self._federation.public.select(torch.arange(self._config.rows))

    def _control(self, known: Finding, suffix: str, role: Role = "context", **update: Any) -> Finding:
        return known.model_copy(update={"label": f"{known.label}, {suffix}", "role": role, "seconds": 0.0, **update})

    def _leaves(self, known: Finding, read: list[Tensor], of_shuffled: list[Tensor]) -> Iterator[Finding]:
        """Yield the share of recovered leaves, and controls: shuffled labels, another client's rows."""
        sums, estimated = self._sums(self._run), self._estimates()
        chance = leaf_counts_exact(estimated, torch.cat(sums), self._confidence).value

        def scored(answers: list[Tensor], truth: list[Tensor]) -> dict[str, Any]:
            pair = (torch.cat(answers), torch.cat(truth), self._confidence)
            return {
                "value": leaf_counts_exact(*pair),
                "chance_level": chance,
                "extra_metrics": {"targets_exact": targets_exact(*pair)},
            }

        yield known.model_copy(update=scored(read, sums))
        trained_on, as_they_are = self._sums(self._shuffled_run), self._sums(self._shuffled_run, self._run)
        yield self._control(known, "the shuffled labels", **scored(of_shuffled, trained_on))
        yield self._control(known, "labels shuffled", **scored(of_shuffled, as_they_are))
        of_others = [
            self._leaf_sums(self._run, client, self._run.shares[o]) for client, o in enumerate(self._other_clients)
        ]
        yield self._control(known, "against another client's rows", **scored(read, of_others))

    def _sums(self, run: TreesRun, labelled: TreesRun | None = None) -> list[Tensor]:
        """Return row counts and label sums of every client's leaves, with another training's labels if given."""
        shares = (labelled or run).shares
        return [self._leaf_sums(run, client, share) for client, share in enumerate(shares)]

    def _leaf_sums(self, run: TreesRun, client: int, rows: Batch) -> Tensor:
        return leaf_sums(self._federation.view(run, client), rows.inputs, rows.labels)

    def _estimates(self) -> Tensor:
        """Return estimates of every client's leaves from public rows, scaled to its number of rows.

        Counts are rounded; label sums are rounded for classes only.
        """
        public = self._federation.public
        share = self._config.rows / len(public)
        sums = torch.cat([self._leaf_sums(self._run, client, public) for client in range(self._config.clients)]) * share
        counts = sums.round()
        return counts if self._federation.objective == "binary:logistic" else torch.stack([counts[:, 0], sums[:, 1]], 1)

    def _values(self, known: Finding, listed: list[Tensor]) -> Iterator[Finding]:
        """Yield the share of listed values that occur in the client's rows, and in another client's rows."""
        shares = self._run.shares
        right = torch.cat([find_occurring(values, share.inputs) for values, share in zip(listed, shares, strict=True)])
        other_values = [
            find_occurring(values, shares[other_share].inputs)
            for values, other_share in zip(listed, self._other_clients, strict=True)
        ]
        of_others = threshold_precision(torch.cat(other_values), self._confidence)
        value = threshold_precision(right, self._confidence)
        yield known.model_copy(update={"value": value, "chance_level": of_others.value})
        yield self._control(known, "against another client's rows", value=of_others, chance_level=of_others.value)

    def _boxes(self, known: Finding, answers: list[Tensor], blind: list[Tensor]) -> Iterator[Finding]:
        """Yield the share of covered rows; baselines: random leaves, public rows, another client's model."""
        boxes, at_random = ([RowBoxes.from_tensor(answer) for answer in group] for group in (answers, blind))
        of_public = [self._boxes_of_strangers(client) for client in range(self._config.clients)]
        other_boxes = [boxes[index] for index in self._other_clients]
        scored = [self._coverage_metrics(group) for group in (boxes, at_random, of_public, other_boxes)]
        strangers = self._strangers_covered(boxes)
        chance = max(scored[1]["value"].value, scored[2]["value"].value, strangers.value)
        yield known.model_copy(update={**scored[0], "chance_level": chance})
        yield self._control(known, "public rows of any label", value=strangers, chance_level=chance)
        suffixes = ("leaves at random", "boxes of public rows", "another client's model")
        for suffix, update in zip(suffixes, scored[1:], strict=True):
            yield self._control(known, suffix, **update, chance_level=chance)

    def _boxes_of_strangers(self, client: int) -> RowBoxes:
        low, high = boxes_of(self._federation.view(self._run, client), self._strangers.inputs)
        return RowBoxes(self._strangers.labels, low, high)

    def _strangers_covered(self, boxes: list[RowBoxes]) -> Interval:
        """Return the share of public rows that the boxes cover, with any label: wide boxes contain any row."""
        rows, any_label = self._strangers.inputs, torch.zeros(self._config.rows, dtype=torch.long)
        unlabelled = [RowBoxes(torch.zeros_like(box.labels), box.low, box.high) for box in boxes]
        return covered_share(torch.cat([match_boxes(boxes, rows, any_label) for boxes in unlabelled]), self._confidence)

    def _coverage_metrics(self, boxes: list[RowBoxes]) -> dict[str, Any]:
        pairs = list(zip(boxes, self._run.shares, strict=True))
        matched = torch.cat([match_boxes(boxes, share.inputs, share.labels) for boxes, share in pairs])
        joined = RowBoxes(*(torch.cat([getattr(box, name) for box in boxes]) for name in ("labels", "low", "high")))
        bits = box_bits(joined, self._federation.public.inputs, self._resampler, self._confidence)
        single_rows = torch.cat([alone_in(boxes, share.inputs) for boxes, share in pairs])
        extra = {"box_bits": bits, "single_row_boxes": single_row_boxes(single_rows, self._confidence)}
        return {"value": covered_share(matched, self._confidence), "extra_metrics": extra}

    def _rows(self, known: Finding, answers: list[Tensor], blind: list[Tensor]) -> Iterator[Finding]:
        """Yield the gain of guessed rows over public rows, and the gain of random guesses."""
        public = self._near([self._strangers.inputs] * self._config.clients)
        for suffix, guesses in (("", answers), ("leaves at random", blind)):
            update = self._gain(self._near(guesses), public)
            yield self._control(known, suffix, **update) if suffix else known.model_copy(update=update)
        yield self._control(known, "public rows", **self._gain(public, public))

    def _near(self, guesses: list[Tensor]) -> Tensor:
        spread = self._federation.public.inputs.std(0)
        pairs = zip(guesses, self._run.shares, strict=True)
        return torch.cat([near_scores(guess, share.inputs, spread) for guess, share in pairs])

    def _gain(self, scores: Tensor, public: Tensor) -> dict[str, Any]:
        near_finding = values_near(scores, self._resampler, self._confidence)
        gain = value_gain(scores, public, self._resampler, self._confidence)
        return {"value": gain, "chance_level": 0.0, "extra_metrics": {"values_near": near_finding}}
