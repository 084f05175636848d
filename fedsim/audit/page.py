"""Page of an audit: verdict, attacker, pictures, members, secrets, groups, defenses, and the command to repeat it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from fedsim.audit import evidence, figures, image_grids, planted, scoring, table_cells, verdict
from fedsim.audit.adopting import adoption_lines
from fedsim.audit.groups import CLASS
from fedsim.audit.record import GROUPS, AuditArm, AuditRecord
from fedsim.core.glossary import TERMS
from fedsim.judgement.outcome import outcome_of
from fedsim.report.document import (
    Block,
    Code,
    Definitions,
    Document,
    Figures,
    Fold,
    ImageGrid,
    ImageGrids,
    Section,
    TableCell,
    TableRow,
    Verdict,
    bullets,
    note,
    paragraph,
    table,
)
from fedsim.report.image_grid import MOST, Arrays
from fedsim.report.levels import LEVEL_OF
from fedsim.report.sections.environment import AGAIN, repeat_section
from fedsim.report.sections.questions import question_blocks
from fedsim.report.tables.findings import questions

ONLY_THERE = {AGAIN, "texts", "words"}
_FEWEST_OTHERS = 100  # a rate of 1 % is at least one of them


def build(record: AuditRecord, pictures: Arrays) -> Document:
    """Return the page of an audit.

    Args:
        record: record of the audit, finished or not.
        pictures: originals and guesses by name, as `image_grids.read` returns them.
    """
    shown = list(image_grids.update_grids(record, pictures))
    sections = (
        _attacker(record),
        Section(
            "What updates give away", (*updates_table(record), *_targets_table(record), *_walls(shown[1:])), "updates"
        ),
        Section("Texts and guesses", tuple(_texts(record)), "texts"),
        *_questions(record),
        *(_groups(record, grouping) for grouping in (CLASS, record.group)),
        _defenses(record, pictures),
        repeat(record),
        Section("What the words mean", (Definitions.of(TERMS),), "words", is_folded=True),
    )
    spent = f"{record.seconds:.0f} s of {60 * record.plan.minutes:.0f} s"
    status = () if record.status == "finished" else (record.status,)
    return Document(
        title=f"Audit of {record.plan.target}",
        kicker=" · ".join(("fedsim audit", record.started, spent, *status)),
        opening=(headline(record), *_policy(record), *_walls(shown[:1]), *conclusion(record)),
        sections=tuple(section for section in sections if section.blocks),
    )


def headline(record: AuditRecord) -> Verdict:
    """Return the verdict on updates as a sentence."""
    state, sentence = verdict.answer(record)
    return Verdict(LEVEL_OF[state], sentence)


def conclusion(record: AuditRecord) -> Iterator[Block]:
    """Yield the recommendation, the limits of the audit, and why time was left."""
    if record.plan.defend:
        yield _advice(record)
    yield from _limits(record)


def subject_of(record: AuditRecord) -> str:
    """Return the audited client in a sentence without full stop."""
    shape = " x ".join(map(str, record.shape))
    scores = "classes" if not table_cells.target_columns(record) else "output" if record.classes == 1 else "outputs"
    parts = [f"{record.parameters:,} parameters", f"{record.noun}s of shape {shape}", f"{record.classes} {scores}"]
    if record.dropout:
        parts.append(f"dropout {', '.join(map(str, dict.fromkeys(record.dropout)))}")
    sentence = ", ".join(parts)
    if not record.client_defenses:
        return sentence
    return (
        f"{sentence}; the client already uses {', '.join(str(defense['name']) for defense in record.client_defenses)}"
    )


def updates_table(record: AuditRecord) -> Iterator[Block]:
    """Yield the table of recovered examples, a row per batch size, and its explanation."""
    column, noun = table_cells.headline(record.noun), record.noun
    figures = ("updates", f"{noun}s", "searched", scoring.rule(record), column.heading)
    words = ("ideal attacker", "state", "by")
    rows = [update_row(record, arm) for arm in record.client]
    title = f"Attacks on updates of {record.plan.target}"
    yield table(title, ("batch", *figures, *words), rows, words, "words")
    yield note(
        f"Recovered: proof that the update holds {noun}s. Withstood: every search converged, on "
        "a guess that explains the update as well as the truth does, or the ideal attacker "
        "recovers nothing. Undecided: the search did not find the examples that the update may hold. The "
        "ideal attacker runs no search: median PSNR of the best possible estimate of the "
        f"{noun}s, to first order at the truth, and the number that its guess would recover; if "
        "it recovers none, the update withstood. It is no guarantee. 95 % Wilson intervals; "
        f"the independent unit is the update, so they are wide. Each {noun}: images.csv."
    )


def _targets_table(record: AuditRecord) -> Iterator[Block]:
    """Yield the table of recovered targets, a row per batch size; nothing if no targets were recovered."""
    columns = table_cells.target_columns(record)
    if not columns:
        return
    headings = ("batch", *(column.heading for column in columns))
    rows = [(str(arm.batch_size), *(table_cells.figure_of(arm, column) for column in columns)) for arm in record.client]
    yield table("Targets read from updates", headings, rows)
    yield note(
        "A target is the value that the model learns to predict for an example. Exact attacks "
        "receive no targets. A search is granted the targets, so its targets do not count as "
        "inferred."
    )


def update_row(record: AuditRecord, arm: AuditArm) -> TableRow:
    """Return the row of a batch size in the table of updates."""
    batch, victims = str(arm.batch_size), arm.victims
    if arm.failure:
        return TableRow.of(batch, *[""] * 7, arm.failure)
    failures = [victim.failure for victim in victims if victim.failure]
    clock = ["ended by the clock: a lower bound"] if evidence.ended_early(victims) and not arm.is_unknown else []
    winner = table_cells.winner(arm) if len(failures) < len(victims) else failures[0]
    reasons = [reason for reason in dict.fromkeys(failures) if reason != winner]
    updates, searched, recovered, ideal = table_cells.searches(record, arm)
    examples = str(sum(len(victim.scores) for victim in victims))
    figure = table_cells.figure_of(arm, table_cells.headline(record.noun))
    state = outcome_of(victims, record.plan.scoring.rule)
    last = TableCell(winner, notes=(*clock, *reasons))
    return TableRow.of(batch, updates, examples, searched, recovered, figure, ideal, state, last)


def missing_policy_note(record: AuditRecord) -> Iterator[Block]:
    """Yield the meaning of the exit code if no threshold is stated; nothing if a threshold exists or is broken."""
    if record.policy.is_empty and not verdict.broken(record):
        yield note(
            "No policy was given, so exit code 0 says only that the audit ran. Thresholds in ",
            Code("[tool.fedsim.policy]"),
            " of a pyproject.toml set the allowed values.",
        )


def _policy(record: AuditRecord) -> Iterator[Block]:
    yield from missing_policy_note(record)
    if broken := verdict.broken(record):
        yield Verdict("broken", "The policy is broken", tuple(map(paragraph, broken)))
    elif record.policy.is_empty:
        return
    elif verdict.undecided_sentences(record):
        sentence = "Undecided: no threshold of the policy is broken, but the evidence does not show that all are kept"
        yield Verdict("caution", sentence, (paragraph("Missing evidence is listed below."),))
    else:
        yield Verdict("", "No threshold of the policy is broken", (paragraph("Attacks that fail are no guarantee."),))


def _advice(record: AuditRecord) -> Verdict:
    best = verdict.recommend(record)
    lines = adoption_lines(best) if best else ()
    steps = (
        paragraph("To adopt it in a Flower app, and in the next audit:"),
        Code("\n".join(lines), "How to adopt it"),
    )
    title = "Recommended setting" if best else "Recommendation"
    return Verdict("advice", title, (paragraph(verdict.sentence(record)), *(steps if lines else ())))


def _limits(record: AuditRecord) -> Iterator[Block]:
    """Yield statements that the audit cannot support, and why time was left."""
    sentences = list(verdict.undecided_sentences(record))
    if record.defense_arms and (weak := verdict.weak_control(record)):
        sentences.insert(0, f"Undecided: no defense can be judged. For each of them, {'; '.join(weak)}.")
    if record.status != "finished":
        sentences.append("The time was over before all defenses were tried.")
    if sentences:
        yield Verdict("caution", "Limits of this audit", tuple(map(paragraph, sentences)))
    if unused := verdict.unused_time_reason(record):
        yield note(unused)


def _attacker(record: AuditRecord) -> Section:
    subject = paragraph(f"{subject_of(record)}.")
    return Section(
        "The audited client and the attacker",
        (subject, bullets(record.threat_model), *map(note, record.notes)),
        "attacker",
    )


def _texts(record: AuditRecord) -> Iterator[Block]:
    """Yield a table of the first texts of each batch size with their position and guess."""
    rows: list[tuple[str, str, str]] = []
    for arm in record.client:
        pairs = [(victim, item) for victim in arm.victims for item in victim.scores if item.text is not None]
        rows += [
            (f"batch {arm.batch_size}, update {victim.round}", item.text or "", item.guess or "")
            for victim, item in pairs[:MOST]
        ]
    if rows:
        yield table("Texts and guesses", ("where", "text", "guess"), rows, ("text", "guess"))


def _members(record: AuditRecord) -> Iterator[Block]:
    rounds = record.training.rounds if record.training else "some"
    yield paragraph(
        f"The client was trained for {rounds} rounds. Attacks get its examples and as many others, and say which "
        f"are members. A rate at 1 % false positives needs {_FEWEST_OTHERS} others."
    )


def _guarantees(record: AuditRecord) -> Iterator[Block]:
    yield from (Verdict("broken", finding.alarm) for finding in record.of("audit") if finding.alarm)
    yield note("Stated for the training of this audit. More shown than stated contradicts the guarantee.")


def _secrets(record: AuditRecord) -> Iterator[Block]:
    findings = record.of("exposure")
    yield paragraph(planted.sentence_of(findings))
    yield note(
        "Random tokens, planted into copies of the client's texts in a separate training. Exposure is "
        f"{findings[0].max_value:.1f} bits at most. Remembered: the interval lies above the interval of secrets that "
        "were not planted."
    )


_Introduction = Callable[[AuditRecord], Iterator[Block]]
_INTRODUCTIONS: Mapping[str, _Introduction] = {"membership": _members, "audit": _guarantees, "exposure": _secrets}


def _questions(record: AuditRecord) -> Iterator[Section]:
    """Yield a section for each question with findings about the undefended client."""
    client = record.model_copy(update={"arms": record.client})
    for question in questions(client):
        found = question_blocks(client, question, record.plan.scoring.confidence)
        yield Section(question.title, (*_INTRODUCTIONS[question.name](record), *found), question.name)


def _groups(record: AuditRecord, grouping: str) -> Section:
    rows = [table_cells.group_cells(finding) for finding in record.of(GROUPS) if finding.scope["by"] == grouping]
    remark = note(
        "Each group against all others: p is that of no difference, after Holm over the groups. Groups with fewer than "
        "five members or others are left out of membership."
    )
    risks = table(f"Risk by {grouping}", ("what", "group", "n", "value", "p (Holm)"), rows, ("group",))
    return Section(f"Risk by {grouping}", (risks, remark) if rows else ())


def _defenses(record: AuditRecord, pictures: Arrays) -> Section:
    if not record.defense_arms and not record.unfit:
        return Section("Possible protection of the client", ())
    blocks = (
        *_conditions(record),
        *_ranking_blocks(record),
        *_walls(list(image_grids.defense_grids(record, pictures))),
        Fold("Not tried", (bullets(_not_tried(record)),)),
    )
    return Section("Possible protection of the client", blocks, "defenses")


def _conditions(record: AuditRecord) -> Iterator[Block]:
    control, training = record.control, record.training
    if control is None or training is None:
        return
    if not record.defense_arms and verdict.control_failed(record):
        yield paragraph(
            f"No defense was tried, since none could be judged: from updates of batch {control.batch_size} nothing was "
            f"recovered without them either ({evidence.iterations(control.victims)} iterations). The time went to "
            "longer searches of the client's updates."
        )
        return
    yield paragraph(
        "Each defense, with default settings unless stated, against an attacker that knows it. All got the same "
        f"attacks on updates of batch {control.batch_size} ({evidence.iterations(control.victims)} iterations) and "
        f"were trained for {training.rounds} rounds of batch {training.batch_size}; without them "
        f"{table_cells.format_recovered(control)} of the {record.noun}s are {scoring.verdict_of(record)} "
        f"and test accuracy is {100 * training.accuracy:.1f} %."
    )


def _ranking_blocks(record: AuditRecord) -> Iterator[Block]:
    arms = [*verdict.rank(record), *(arm for arm in record.defense_arms if arm.failure)]
    if not arms:
        return
    words = ("ideal attacker", "keeps the policy")
    costs = ("accuracy lost, points", "test loss", "time of a round", "epsilon")
    heads = ("defense", "updates", "searched", scoring.verdict_of(record), words[0], *costs, words[1])
    control = (
        [TableRow.of("none (control)", *table_cells.searches(record, record.control), *[""] * 5)]
        if record.control
        else []
    )
    best, remarks = verdict.recommend(record), {arm.name: _remarks(record, arm) for arm in arms}
    shared = {why: names for why, names in _group_by_remark(remarks).items() if len(names) > 1}
    rows = [
        *control,
        *(
            _defense_row(record, arm, tuple(why for why in remarks[arm.name] if why not in shared), is_best=arm is best)
            for arm in arms
        ),
    ]
    if (picture := figures.defenses(record)) is not None:
        yield Figures((picture,), folder="")
    yield table("Defenses, with default settings unless stated", heads, rows, words, "words")
    paired = ""
    if record.training:
        examples = record.training.test_examples
        paired = f"Accuracy: paired over the same {examples} test examples, 95 % bootstrap intervals. "
    yield from (note(f"{', '.join(names)}: {why.removesuffix('.')}.") for why, names in shared.items())
    yield note(f"{paired}The same as data: defenses.csv.")


def _remarks(record: AuditRecord, arm: AuditArm) -> tuple[str, ...]:
    """Return why a defense breaks or may break the policy, without the reasons common to all defenses."""
    if arm.failure:
        return ()
    of_all = verdict.weak_control(record)
    return verdict.broken_by(record, arm) or tuple(
        why for why in verdict.missing_evidence(record, arm) if why not in of_all
    )


def _group_by_remark(remarks: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for name, sentences in remarks.items():
        for why in sentences:
            names.setdefault(why, []).append(name)
    return names


def _defense_row(record: AuditRecord, arm: AuditArm, why: tuple[str, ...], *, is_best: bool) -> TableRow:
    attacked = table_cells.searches(record, arm) if arm.victims else ("", "", "not attacked", "")
    cost = ("", "", "")
    if arm.cost:
        lost = table_cells.interval(arm.cost.accuracy_loss, 100, 1)
        cost = (lost, f"{arm.cost.loss_change:+.3f}", f"x {arm.cost.slowdown:.2g}")
    return TableRow.of(
        TableCell(arm.name, notes=("Poisson sampling",) if arm.sampling == "poisson" else ()),
        *attacked,
        *cost,
        ", ".join(f"{stated.epsilon:.3g}" for stated in arm.guarantees),
        TableCell(
            f"undecided: {arm.failure}" if arm.failure else table_cells.format_policy_state(record, arm), notes=why
        ),
        level="best" if is_best else "",
    )


def _not_tried(record: AuditRecord) -> Iterator[str]:
    why = "nothing was recovered without it either" if verdict.control_failed(record) else "no time left"
    yield from (f"{name}: {why}" for name in record.not_tried)
    yield from (f"{name}: {why}" for name, why in record.unfit)


def repeat(record: AuditRecord) -> Section:
    """Return the section with the command, seed and environment of the audit."""
    return repeat_section(record.environment, f"{record.plan.seed}; how many iterations fit depends on the machine")


def _walls(shown: Sequence[ImageGrid]) -> Iterator[ImageGrids]:
    if shown:
        yield ImageGrids(tuple(shown))
