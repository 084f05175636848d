"""Two-sentence verdict of a run: attack results and their reliability."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fedsim.judgement.outcome import is_beyond_chance
from fedsim.record import ArmRecord, AttackFinding, RunRecord
from fedsim.report.banners import banners
from fedsim.report.document import Statement
from fedsim.report.tables.findings import finding_sentences
from fedsim.report.verdict import RunJudge, equally_strong, join_words, sentences, strength

_MOST_NAMED = 3  # arms and attacks that a sentence names


def summarise_run(record: RunRecord) -> tuple[str, str]:
    """Return a sentence on the strongest attacks' results and a sentence on their reliability."""
    judge = RunJudge.of(record)
    return _outcome(record, judge), _trust(record, judge)


def _outcome(record: RunRecord, judge: RunJudge) -> str:
    outcomes = {arm.name: _summarise_arm(record, arm, judge) for arm in record.arms}
    alike = set(outcomes.values())
    if len(alike) == 1:
        return f"{alike.pop()}{f' in each of {len(outcomes)} arms' if len(outcomes) > 1 else ''}."
    if len(outcomes) > _MOST_NAMED:
        return _summarise_arms(record, judge, outcomes)
    return f"{'; '.join(f'{name}: {outcome}' for name, outcome in outcomes.items())}."


def all_statements(record: RunRecord, judge: RunJudge) -> list[Statement]:
    """Return a statement per arm on recovered examples, then statements on the findings of questions."""
    return [*sentences(record, judge), *finding_sentences(record)]


def _summarise_arms(record: RunRecord, judge: RunJudge, outcomes: Mapping[str, str]) -> str:
    """Return the number of arms with a successful attack, and the arms with the highest and lowest success."""
    leaking = {statement.subject for statement in all_statements(record, judge) if statement.level == "recovered"}
    if not leaking:
        return f"No attack succeeded in any of {len(outcomes)} arms."
    tried = [arm for arm in record.arms if arm.name in leaking or _strongest(arm, judge) is not None]
    shares = {arm.name: (_share(arm, judge), arm.name in leaking) for arm in tried}
    highest, least = max(shares, key=shares.__getitem__), min(shares, key=shares.__getitem__)
    if shares[highest][0] == shares[least][0]:  # membership rates at different false-positive rates have no order
        return f"Attacks succeeded in {len(leaking)} of {len(outcomes)} arms, as in '{highest}' ({outcomes[highest]})."
    ends = f"most in '{highest}' ({outcomes[highest]}), least in '{least}' ({outcomes[least]})"
    return f"Attacks succeeded in {len(leaking)} of {len(outcomes)} arms: {ends}."


def _summarise_arm(record: RunRecord, arm: ArmRecord, judge: RunJudge) -> str:
    """Return the results of an arm: examples recovered by the strongest attack, then findings on members."""
    of_arm = [sentence for sentence in all_statements(record, judge) if sentence.subject == arm.name]
    parts = [f"{sentence.before if arm.answers else ''}{sentence.strong}" for sentence in of_arm]
    attack = _strongest(arm, judge)
    if attack is not None:
        count = judge.count(attack)
        noun = count.noun if count.examples == 1 else f"{count.noun}s"
        verdict = judge.verdict(attack)
        equals = equally_strong(attack, _judged_attacks(arm), judge)
        names = join_words([rival.label for rival in (attack, *equals)][:_MOST_NAMED])
        is_luck = count.recovered_examples and not is_beyond_chance(attack.victims, judge.success)
        parts[0] = f"{count.recovered_examples} of {count.examples} {noun} {verdict} with {names}"
        parts[0] += ", which blind guesses explain" if is_luck else ""
    return ", and ".join(parts)


def _strongest(arm: ArmRecord, judge: RunJudge) -> AttackFinding | None:
    """Return the strongest attack without granted masks; if all attacks had masks, the strongest of all."""
    return max(_judged_attacks(arm), key=lambda attack: strength(attack, judge), default=None)


def _judged_attacks(arm: ArmRecord) -> list[AttackFinding]:
    tried = [attack for attack in arm.attacks if attack.value is not None]
    return [attack for attack in tried if "masks" not in attack.knows] or tried


def _share(arm: ArmRecord, judge: RunJudge) -> float:
    attack = _strongest(arm, judge)
    if attack is None:
        return 0.0
    count = judge.count(attack)
    return count.recovered_examples / max(1, count.examples)


def _trust(record: RunRecord, judge: RunJudge) -> str:
    """Return the first applicable statement on reliability.

    In order: a banner, attacks that failed although stronger attacks succeeded, no success at all, or the utility of
    the trained model.
    """
    for banner in banners(record, judge):
        why = banner.text.partition(". ")[0].rstrip(".")
        return f"{banner.title}: {why[:1].lower()}{why[1:]}."
    fooled = list(dict.fromkeys(_fooled_sentences(record, judge)))
    if fooled:
        ending = f" and {len(fooled) - _MOST_NAMED} more" if len(fooled) > _MOST_NAMED else ""
        return (
            f"Alone, {', '.join(fooled[:_MOST_NAMED])}{ending} recovered none: that would have passed for protection."
        )
    if any(arm.attacks for arm in record.arms) and not any(_share(arm, judge) for arm in record.arms):
        return "That these attacks recovered nothing is no guarantee."
    return f"The trained model: {'; '.join(_utility(record))}."


def _fooled_sentences(record: RunRecord, judge: RunJudge) -> Iterator[str]:
    for arm in record.arms:
        strongest = _strongest(arm, judge)
        if strongest is None or not is_beyond_chance(strongest.victims, judge.success):
            continue
        for attack in arm.attacks:
            if attack.value is not None and "masks" not in attack.knows and not judge.count(attack).recovered_examples:
                yield attack.label if len(record.arms) == 1 else f"{attack.label} ({arm.name})"


def _utility(record: RunRecord) -> Iterator[str]:
    """Yield the utility of the trained model of each of the first arms."""
    for arm in record.arms[:_MOST_NAMED]:
        last = next((entry for entry in reversed(arm.rounds) if entry.test_metrics), None)
        utility = last.utility(record.metrics_by_name) if last else None
        stated = f"{utility.name} {utility.text}" if utility else "not evaluated"
        yield stated if len(record.arms) == 1 else f"{stated} ({arm.name})"
