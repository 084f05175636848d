"""Release check of a finished model: load, attack, judge, and write the document."""

from __future__ import annotations

from pathlib import Path

from fedsim.core import seeding
from fedsim.core.result_files import RELEASE
from fedsim.judgement.policy import Policy
from fedsim.record import ArmFindings
from fedsim.record.environment import environment, now
from fedsim.record.store import RunFolder
from fedsim.release import finished, membership, memory, page, sites, verdict
from fedsim.release.record import ReleasePlan, ReleaseRecord
from fedsim.report.document.html import to_html
from fedsim.report.document.markdown import to_markdown

PAGE, CARD = "release.html", "release.md"


def run(plan: ReleasePlan, policy: Policy, path: Path) -> ReleaseRecord:
    """Check a model, and write the document to a folder, in place of an earlier one.

    Raises:
        FedsimError: as in `check`; or another process uses the folder, it holds files that no release check wrote, or
            it cannot be written.
    """
    folder = RunFolder(path, RELEASE)
    with folder.renew():
        record = check(plan, policy)
        _write(record, folder)
    return record


def check(plan: ReleasePlan, policy: Policy) -> ReleaseRecord:
    """Attack the model that a plan names.

    Args:
        plan: model, data and options of the check.
        policy: allowed limits.

    Raises:
        FedsimError: an item that the plan names is missing or invalid, as the message describes.
    """
    started = now()
    model = finished.read(plan)
    places, secrets = sites.read(plan.sites), memory.read_secrets(plan.secrets, model)
    with seeding.isolate_randomness(plan.seed):  # some models are random in evaluation mode too
        findings = [
            *membership.find(model, plan.seed),
            *sites.find(places, plan.seed),
            *memory.find_secrets(secrets, model, plan.seed),
            *memory.find_texts(model, plan.seed),
        ]
    record = ReleaseRecord(
        status="finished",
        plan=plan,
        policy=policy,
        environment=environment(plan.command),
        started=started,
        ended=now(),
        hashes=finished.hashes(plan),
        parameters=sum(p.numel() for p in model.subject.model.parameters()),
        members=len(model.members),
        non_members=len(model.non_members),
        notes=model.notes,
        arms=(ArmFindings(name="model", findings=verdict.judge_findings(findings)),),
    )
    return record.with_declarations()


def _write(record: ReleaseRecord, folder: RunFolder) -> None:
    document = page.build(record)
    folder.write_record(record)
    folder.write(PAGE, to_html(document).encode())
    folder.write(CARD, to_markdown(document).encode())
