"""Banners of a run's report: conditions that weaken or invalidate its results."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.record import RunRecord
from fedsim.report.document import Banner
from fedsim.report.verdict import Count, RunJudge, join_words


def banners(record: RunRecord, judge: RunJudge) -> list[Banner]:
    """Return the banners of a run: alarms, failed controls, incomplete status, and replay mismatches."""
    return [
        *_alarm_banners(record),
        *_control_banners(record, judge),
        *_status_banners(record),
        *_replay_banners(record),
    ]


def _alarm_banners(record: RunRecord) -> Iterator[Banner]:
    for arm in record.arms:
        for title, _, text in (finding.alarm.partition(". ") for finding in arm.findings if finding.alarm):
            yield Banner("alarm", title, f"{arm.name}: {text}")
        for finding in (finding for finding in arm.findings if finding.invalid):
            yield Banner("alarm", f"{finding.label} is invalid", f"{arm.name}: {finding.invalid}.")


def _control_banners(record: RunRecord, judge: RunJudge) -> Iterator[Banner]:
    attacked = [(arm, attack) for arm in record.arms for attack in arm.attacks if attack.victims]
    controls = [(arm, attack) for arm, attack in attacked if judge.is_control(arm, attack)]
    if any(judge.control_succeeded(attack) for _, attack in controls):
        return
    if controls and any(judge.control_succeeded(attack) for _, attack in attacked):
        yield Banner(
            "caution",
            "No control succeeded",
            "No positive control succeeded, although attacks succeeded elsewhere. A positive "
            "control is an attack that was granted the masks, or any attack on an unprotected "
            "client. Where attacks failed, this report cannot distinguish protection from an "
            "unsuitable attack.",
        )
    elif controls:
        tried = "; ".join(
            f"{attack.label} in {arm.name}, {_format_count(judge.count(attack))}" for arm, attack in controls
        )
        yield Banner(
            "alarm",
            "This report shows nothing about privacy",
            f"A control ought to succeed: an attack that was granted the masks, or any attack where nothing protects "
            f"the client. None did ({tried}). The attacks below may fail because they are weak or wrongly set, "
            "not because the clients are protected.",
        )
    elif attacked:
        yield Banner(
            "caution",
            "No control was run",
            "No attack was granted the masks, and every arm has dropout, a component or a "
            "defense. A failed attack may be weak rather than defeated. Add an arm without "
            "protection.",
        )


def _format_count(count: Count) -> str:
    return f"{count.recovered_examples} of {count.examples} {count.noun}s" if count.victims else "failed"


def _status_banners(record: RunRecord) -> Iterator[Banner]:
    if record.status == "interrupted":
        yield Banner("caution", "This run was interrupted", "The report shows the results recorded until then.")
    if record.status == "failed":
        why = "; ".join(f"{failure.subject}: {failure.reason}" for failure in record.failures)
        yield Banner("caution", "This run failed", f"The report shows the results recorded until then. {why}".strip())


def _replay_banners(record: RunRecord) -> Iterator[Banner]:
    names = [arm.name for arm in record.arms if arm.attacks and not arm.replay_matches]
    if names:
        yield Banner(
            "caution",
            "The scores may be against the wrong truth",
            f"Replaying the victims did not give the update on the wire in {join_words(names)}: neither bit by bit "
            "nor, on the engine 'vectorized', up to its rounding.",
        )
