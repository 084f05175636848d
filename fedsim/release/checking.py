"""Release check of a finished model: load, attack, judge, and write the document."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from fedsim.core import seeding
from fedsim.judgement.policy import Policy
from fedsim.record.atomic_files import explain, write_whole
from fedsim.record.environment import environment
from fedsim.release import finished, membership, memory, page, sites, verdict
from fedsim.release.record import ReleasePlan, ReleaseRecord
from fedsim.report.document import to_html, to_markdown

PAGE, CARD, RECORD = "release.html", "release.md", "release.json"


def check(plan: ReleasePlan, policy: Policy) -> ReleaseRecord:
    """Attack the model that a plan names.

    Args:
        plan: model, data and options of the check.
        policy: allowed limits.

    Raises:
        FedsimError: an item that the plan names is missing or invalid, as the message describes.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    model = finished.read(plan)
    places, secrets = sites.read(plan.sites), memory.read_secrets(plan.secrets, model)
    with seeding.isolate_randomness(plan.seed):  # some models are random in evaluation mode too
        findings = [
            *membership.find(model, plan.seed),
            *sites.find(places, plan.seed),
            *memory.find_secrets(secrets, model, plan.seed),
            *memory.find_texts(model, plan.seed),
        ]
    return ReleaseRecord(
        plan=plan,
        policy=policy,
        environment=environment(plan.command),
        started=started,
        hashes=finished.hashes(plan),
        parameters=sum(p.numel() for p in model.subject.model.parameters()),
        members=len(model.members),
        others=len(model.others),
        notes=model.notes,
        findings=verdict.judged(findings),
    )


def write(record: ReleaseRecord, folder: Path) -> None:
    """Write the document as HTML and Markdown, and the record.

    Raises:
        FedsimError: the folder cannot be written.
    """
    with explain(folder):
        folder.mkdir(parents=True, exist_ok=True)
    document = page.build(record)
    write_whole(folder / RECORD, record.model_dump_json(indent=1).encode())
    write_whole(folder / PAGE, to_html(document).encode())
    write_whole(folder / CARD, to_markdown(document).encode())
