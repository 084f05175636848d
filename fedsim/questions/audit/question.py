"""audit: test whether private training keeps its stated epsilon.

Fair coins add canaries to a client's private training, and an attacker guesses the coins. An audit can contradict a
stated epsilon, but never prove it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, final

from pydantic import Field, model_validator

from fedsim.core.best_step import TimedConfig
from fedsim.core.errors import ScenarioError
from fedsim.core.hooks import IMAGES
from fedsim.core.registry import question
from fedsim.privacy.coupled import Coupled
from fedsim.privacy.one_run import AuditResult, Plan
from fedsim.questions.audit.canaries import audit_guarantee, can_audit
from fedsim.questions.audit.metrics import epsilon_lower_bound
from fedsim.questions.audit.neighbours import try_neighbours
from fedsim.questions.base import Evidence, Question, QuestionContext
from fedsim.record import Finding, GuaranteeRecord
from fedsim.scenario.world import World

_ENOUGH = 0.8  # power below which an audit is inconclusive


class AuditSettings(TimedConfig):
    """Canary audit of every private mechanism's guarantee, in the training of a client."""

    canaries: int = Field(default=400, ge=2, description="added by fair coins")
    guesses: int | None = Field(
        default=None,
        ge=2,
        multiple_of=2,
        description=(
            "number of canaries with the most extreme scores to guess; unset: the number that best "
            "detects half of the noise"
        ),
    )
    runs: int = Field(
        default=1,
        ge=1,
        description="independent trainings; with 50 or more the lower bound approaches the stated epsilon",
    )
    client: int = Field(default=0, ge=0, description="whose training is audited")
    confidence: float = Field(default=0.95, gt=0.5, lt=1)

    @model_validator(mode="after")
    def _enough(self) -> AuditSettings:
        if self.guesses is not None and self.guesses > self.canaries:
            raise ValueError(f"guesses is {self.guesses}, expected at most {self.canaries}, the canaries")
        return self


@final
@question("audit", summary="does a private training keep the epsilon that it states?", related="2410.22235")
class PrivacyAuditQuestion(Question[AuditSettings]):
    """Audits every record-level guarantee of a client's mechanism with canaries."""

    metric: ClassVar[str] = "epsilon_lower_bound"
    title: ClassVar[str] = "Is the guarantee kept?"
    summary: ClassVar[str] = (
        "Fair coins added canaries to a client's private training, and the audit guessed the "
        "coins. The value is a lower bound on epsilon from the number of correct guesses. "
        "Above the stated epsilon it contradicts the guarantee; below it proves nothing."
    )
    null_statement: ClassVar[str] = "No claim is contradicted"
    baseline: ClassVar[str] = "stated"
    method: ClassVar[str] = (
        "The bound is from a one-run audit with the trade-off function of the stated steps "
        "(Mahloujifar et al. 2024), and from the product of accuracies over independent runs. "
        "Both hold under any dependence between canaries."
    )

    def check(self, world: World) -> None:
        """Check that the client exists, and that examples are images with class labels."""
        clients = world.scenario.federation.clients
        if self.config.client >= clients:
            raise ScenarioError(f"audit.client is {self.config.client}, expected 0 to {clients - 1}.")
        if world.task.label_kind != "class":
            raise ScenarioError(
                f"audit: its canaries have a class each, and labels are {world.task.labels_in_words}. Leave it out."
            )
        if world.task.does_not_suit(IMAGES):
            raise ScenarioError(
                f"audit: its canaries are images, and the examples are {world.task.modality}. Leave the audit out."
            )

    def run(self, evidence: Evidence, work: QuestionContext) -> Iterator[Finding]:
        """Yield a finding for each auditable guarantee."""
        for guarantee in evidence.guarantees:
            if can_audit(evidence.world, guarantee):
                work.progress(f"audit of {guarantee.source}", 1, 1)
                tried = try_neighbours(evidence.world, guarantee, self.config.client)
                settings = self.config.model_dump(exclude={"seconds"})
                yield _finding(guarantee, audit_guarantee(evidence.world, guarantee, **settings), tried)


def _finding(guarantee: GuaranteeRecord, shown: AuditResult, tried: Coupled | None) -> Finding:
    plan, stated = shown.plan, f"{guarantee.source} states epsilon {guarantee.epsilon:.3g} at delta {guarantee.delta:g}"
    runs = f" in the first of {plan.runs} runs" if plan.runs > 1 else ""
    figure = (
        f"{stated}; an audit with {plan.canaries} canaries ({shown.right} of {plan.guesses} guesses right{runs}) shows "
        f"at least {shown.epsilon:.3g} (confidence {plan.confidence:.0%}) of "
        f"{plan.max_epsilon:.3g} that it could show at most"
    )
    faults = tried.faults if tried else ()
    is_contradicted = shown.epsilon > guarantee.epsilon or bool(faults)
    alarm = (
        f"An audit contradicts a guarantee. {figure}. {_faults(faults)}The mechanism differs "
        "from its statement: check for missing noise, clipping of the whole batch, or a "
        "sensitivity that is too small. No epsilon of that arm is valid."
    )
    return Finding(
        question="audit",
        label=guarantee.source,
        scope={
            "guesses": plan.guesses,
            "right": shown.right,
            "canaries": plan.canaries,
            "runs": plan.runs,
            "delta": guarantee.delta,
            "at_most": plan.max_epsilon,
            "power": plan.power,
            "neighbours": tried.neighbours if tried else 0,
        },
        metric="epsilon_lower_bound",
        value=epsilon_lower_bound(shown),
        chance_level=guarantee.epsilon,
        note=f"{figure}. {_if_apart(shown)}{_power(plan)} {_neighbours(tried)}",
        alarm=alarm if is_contradicted else "",
    )


def _faults(faults: Sequence[str]) -> str:
    return "".join(f"With equal randomness, {fault}. " for fault in faults)


def _neighbours(tried: Coupled | None) -> str:
    """Return the sentence on the comparison of neighbouring batches."""
    if tried is None:
        return "Neighbouring batches were not compared: a round holds several private steps."
    if tried.faults:
        return _faults(tried.faults).rstrip()
    return (
        f"With equal randomness, {tried.neighbours} pairs of neighbouring batches differ by at most "
        f"{tried.distance:.3g} deviations of the noise; stated are {tried.max_distance:.3g}."
    )


def _if_apart(shown: AuditResult) -> str:
    if shown.apart is None:
        return ""
    return f"If noise is drawn apart for each canary, at least {shown.apart:.3g}. "


def _power(plan: Plan) -> str:
    weak = " This audit is too weak for this claim: take more canaries, or more runs." if plan.power < _ENOUGH else ""
    return f"Half of the stated noise would have been contradicted with a chance of {plan.power:.0%}.{weak}"
