"""The page of evidence: hostile names are text, and Chromium prints it to one A4 page."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fedsim.audit import sheet, verdict
from fedsim.audit.record import AuditRecord
from fedsim.judgement.policy import Policy
from fedsim.record import Columns
from fedsim.report.document import Verdict
from fedsim.report.document.html import to_html
from fedsim.report.document.markdown import to_markdown
from tests.audit.findings import ENOUGH, HOSTILE, attacked, exposure, membership, record, secrets


def audited(items: dict[str, Columns] | None = None) -> AuditRecord:
    found = (attacked(0, ENOUGH), attacked(0, 4, batch=4, converged=False), attacked(4, batch=16))
    policy = Policy(max_recovered=0.1, max_membership_tpr=0.2, max_epsilon=8.0)
    threat = ("The server is honest but curious.", "It sees single updates.", "It knows the labels.")
    both = (membership(0.1), *exposure())
    return record(policy, client=found, findings=both, items=secrets() if items is None else items, threat_model=threat)


def test_it_says_what_was_found_what_was_not_tested_and_what_others_ask_for() -> None:
    html = to_html(sheet.build(audited()))
    assert html.count("<script") == 1  # that of all pages, which the policy names by its hash
    assert HOSTILE.replace("<", "&lt;").replace(">", "&gt;") in html
    assert html.count('class="light kept"') == 1
    assert html.count('class="light undecided"') == 2
    assert html.count('class="light broken"') == 2
    assert "0 (0 to 9) %" in html
    assert all(text in html for text in ("12.3.1", "12.3.4", "28/2024", "800-226"))
    assert "16 secrets planted and 8 not planted" in html
    assert "no canary was planted" in to_html(sheet.build(audited(items={})))
    assert "Attribute inference, exfiltration and inversion of the trained model are not tested" in html
    assert "draft of April 2026" in html
    assert "in fedsim&#39;s own words" in html.replace("'", "&#39;")
    assert "a server that changes the model" in html
    assert "http" not in html.replace("http-equiv", "")


def test_the_answer_of_the_audit_stands_first_also_where_nothing_is_judged() -> None:
    found = record(Policy(), client=(attacked(0, 4, converged=False), attacked(4, batch=4)))
    (first, *_), answer = sheet.build(found).opening, verdict.answer(found).sentence
    assert "Updates of 4 images give" in answer
    assert isinstance(first, Verdict)
    assert (first.level, first.headline) == ("recovered", answer)
    html, card = to_html(sheet.build(found)), to_markdown(sheet.build(found), depth=2)
    assert html.index(answer) < html.index(" parameters, ") < html.index("No policy states thresholds")
    assert [line for line in card.splitlines() if line][1].strip("> *") == answer


def test_it_is_a_section_of_a_model_card_too() -> None:
    text = to_markdown(sheet.build(audited()), depth=2)
    assert text.startswith("## Evidence on the updates of ")
    assert "| 1 | 40 | 500 it., 40 of 40 converged | 0 (0 to 9) % |  | withstood |" in text
    assert "| max\\_recovered | batch 16 | broken | max\\_recovered = 0.1, but 100 % (51 to 100)" in text
    assert "A failed attack is none." in text
    assert "    fedsim audit" in text


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_it_is_printed_on_one_page_of_a4(tmp_path: Path) -> None:
    (tmp_path / "evidence.html").write_text(to_html(sheet.build(audited())))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"]
    command += [f"--print-to-pdf={tmp_path / 'page.pdf'}", f"file://{tmp_path / 'evidence.html'}"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    pdf = (tmp_path / "page.pdf").read_bytes()
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) == 1
    boxes = {tuple(float(v) for v in box.split()) for box in re.findall(rb"/MediaBox\s*\[([^\]]*)\]", pdf)}
    assert all(abs(w - 595) < 2 and abs(h - 842) < 2 for _, _, w, h in boxes)  # points of A4
    assert boxes
