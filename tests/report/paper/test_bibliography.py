"""Every paper of a registered method has an entry, and a table cites the papers of its own methods."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from fedsim.core.registry import index
from fedsim.report.paper import Selection, bibliography, read_paper_table
from fedsim.report.paper.bibliography import MethodName, Paper, methods_in, papers_by_id, to_bibtex


def test_every_paper_id_of_the_registry_has_an_entry_and_no_entry_is_unused() -> None:
    entries = [entry for kind in index.FOLDERS for entry in index.entries_of(kind).values()]
    assert {paper for entry in entries for paper in (entry.paper, entry.related) if paper} == set(papers_by_id())


def test_keys_are_unique_and_legal_and_titles_and_authors_are_words() -> None:
    papers = list(papers_by_id().values())
    keys = [paper.key for paper in papers]
    assert len({key.casefold() for key in keys}) == len(keys)
    assert all(re.fullmatch("[a-z][a-z0-9]+", key) for key in keys)
    titles = [paper.title for paper in papers if paper.title]
    assert len(set(titles)) == len(titles)
    assert all("others" not in paper.authors[:-1] for paper in papers)


def test_an_arxiv_paper_is_not_cited_before_it_appeared() -> None:
    dated = [(paper, re.match(r"(\d\d)(\d\d)\.", paper.id)) for paper in papers_by_id().values()]
    assert all(2000 + int(found[1]) <= paper.year for paper, found in dated if found)


def test_an_entry_written_by_hand() -> None:
    assert to_bibtex([MethodName("component", "adam"), MethodName("attack", "my.module:Own")]) == (
        "% Papers of the methods of a table, written by fedsim export\n"
        "\n"
        "% component adam: a reproduction of arXiv 1412.6980\n"
        "@misc{kingma2015adam,\n"
        "  author = {{Kingma} and {Ba}},\n"
        "  title = {{Adam: A Method for Stochastic Optimization}},\n"
        "  year = {2015},\n"
        "  eprint = {1412.6980},\n"
        "  archivePrefix = {arXiv},\n"
        "}\n"
        "\n"
        "% no paper is known of: my.module:Own\n"
    )


def test_a_comment_never_begins_an_entry_and_a_paper_is_cited_once() -> None:
    text = to_bibtex(
        [MethodName("attack", "@misc{x,\n}"), MethodName("attack", "dlg"), MethodName("attack", "round-averaging")]
    )
    assert re.findall(r"@.*", text) == ["@misc{zhu2019deep,"]
    assert "% attack dlg: a variant of" in text
    assert "% attack round-averaging: builds on" in text


def test_a_paper_without_a_known_title_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = Paper(key="unknown2025", id="2509.11451", year=2025)
    monkeypatch.setattr(bibliography, "papers_by_id", lambda: {unknown.id: unknown})
    text = to_bibtex([MethodName("attack", "head-inversion")])
    assert "title" not in text.partition("@misc")[2]
    assert "eprint = {2509.11451}" in text
    assert "key = {unknown2025}" in text  # BibTeX sorts by it, since no author is known either


def test_only_the_methods_of_the_chosen_rows_are_cited(tmp_path: Path, records: ModuleType) -> None:
    noisy = records.scenario(defenses=[{"name": "soteria"}])
    attacks = [
        finding.model_copy(update={"label": label, "method": method})
        for label, method in (("first", "dlg"), ("second", "idlg"))
        for finding in [records.attack(label, records.recovered())]
    ]
    records.save(tmp_path, records.run([records.arm("one", attacks)], plan=noisy))
    table = read_paper_table(tmp_path, "attacks", Selection(attacks=("second",))).table
    used = methods_in(tmp_path, table)
    assert MethodName("defense", "soteria") in used
    assert MethodName("attack", "idlg") in used
    assert MethodName("attack", "dlg") not in used


def test_a_setting_of_a_sweep_has_its_own_defense(tmp_path: Path, records: ModuleType, sweeps: ModuleType) -> None:
    folder = sweeps.save(tmp_path / "s", records, sweeps.typical(records, seeds=(1,)))
    table = read_paper_table(folder, "", Selection(arms=("none",))).table
    names = {name for _, name in methods_in(folder, table)}
    assert "gradient-noise" not in names
    assert "ig" in names
    whole = {name for _, name in methods_in(folder, read_paper_table(folder, "", Selection()).table)}
    assert "gradient-noise" in whole
