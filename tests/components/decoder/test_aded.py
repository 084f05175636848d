"""ADED: what its sheet says must hold. Trees and roll-back are tested with what a model has read."""

import random
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.components.decoder import aded
from fedsim.components.decoder.aded import AdedConfig, TrigramTable, count_table, load_table, save_table, search
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import GenerationContext
from fedsim.core.nets.kv_cache import DecodingCache, Draft
from fedsim.core.types import Limits
from fedsim.generation import generate
from tests.components.generating import VOCABULARY, greedy, make, prompts, sources, tiny_llama
from tests.components.laws import follows, law

HALF = cycle([0.5])


def random_table(vocabulary: int, count: int, seed: int = 0) -> dict[aded.Pair, dict[int, float]]:
    source = random.Random(seed)
    texts = [source.choices(range(vocabulary), k=4) for _ in range(count)]
    return count_table(texts)


@pytest.fixture
def asked() -> list[list[int]]:
    source = random.Random(2)
    return [source.choices(range(VOCABULARY), k=source.randint(1, 9)) for _ in range(20)]


@pytest.mark.parametrize("kind", ["empty", pytest.param("random", marks=pytest.mark.slow), "oracle"])
def test_at_temperature_zero_it_is_greedy_whatever_the_table_says(
    kind: str, asked: list[list[int]], tmp_path: Path
) -> None:
    model = tiny_llama()
    texts = greedy(model, asked, 20)
    table = {
        "empty": {},
        "random": random_table(VOCABULARY, 2000),
        "oracle": count_table([[*own, *text] for own, text in zip(asked, texts, strict=True)]),
    }[kind]
    save_table(tmp_path / "table.json", table)
    method = make("aded", table=tmp_path / "table.json", iterations=12)
    found = generate(method, model, prompts(*asked), Limits(max_new_tokens=20), sources(20))
    assert [list(own.tokens) for own in found] == texts
    if kind == "oracle":
        assert sum(len(own.trace.tokens) for own in found) < 20 * 20 / 2


def check_law(vocabulary: int, length: int, draws: int, folder: Path) -> None:
    """The table is counted on texts that the model seldom writes."""
    model, prompt = tiny_llama(vocabulary).eval(), [1, 2]
    config = {"temperature": 1.0, "top_p": 0.95, "iterations": 6, "table": folder / "table.json"}
    expected = law(model, prompt, vocabulary, length, AdedConfig(temperature=1.0, top_p=0.95))
    rare = sorted(expected, key=expected.__getitem__)[: len(expected) // 2]
    save_table(folder / "table.json", count_table([[*prompt, *own] for own in rare]))
    limits = Limits(max_new_tokens=length)
    texts = generate(make("aded", **config), model, prompts(*[prompt] * draws), limits, sources(draws), batch_size=500)
    assert follows([text.tokens for text in texts], expected)
    assert len({text.trace.tokens for text in texts}) > 1


@pytest.mark.paper_step("aded", "verification by draws of the model")
def test_texts_follow_the_law_of_the_model(tmp_path: Path) -> None:
    check_law(4, 3, 1000, tmp_path)


def test_every_node_of_a_searched_tree_has_the_scores_of_its_way() -> None:
    model = tiny_llama().eval()
    ways = search(TrigramTable(random_table(VOCABULARY, 5000)), (1, 2), AdedConfig(), 4, HALF)
    draft, text = Draft.tree(ways, 32), [3, 1, 2]
    assert len(draft) == 32
    assert max(draft.depths()) > 1
    with torch.no_grad():
        (scores,) = DecodingCache().scores(model, [text], [draft])
        for way in draft.ways():
            alone = model(torch.tensor([[*text, *(draft.tokens[node] for node in way)]]))[0, 2:]
            own = scores[[0, *(1 + node for node in way)]]
            torch.testing.assert_close(own, alone, rtol=0, atol=1e-9)  # sums in another order, in double precision


@pytest.mark.paper_step("aded", "reduced tri-gram table that learns from drafts")
def test_the_table_learns_every_trigram_of_the_window_and_nothing_else() -> None:
    before = {(1, 2): {3: 0.5, 4: 2.99}, (9, 9): {9: 0.1}}
    text = [9, 9, 9, *[7] * 8, 1, 2, 3, 1, 2, 3, 1, 2]  # the nines lie in front of the last 16
    after = TrigramTable(before).learn_text(text)
    assert after.successors_of((1, 2)) == pytest.approx({3: 0.5 + 2 * 0.04, 4: 2.99})
    assert after.successors_of((7, 7)) == pytest.approx({7: 6 * 0.04, 1: 0.04})
    assert after.successors_of((9, 9)) == {9: 0.1}
    assert after.successors_of((9, 7)) == {}
    assert TrigramTable(before).learn_text([1, 2, 4] * 2).successors_of((1, 2))[4] == 3.0
    assert before == {(1, 2): {3: 0.5, 4: 2.99}, (9, 9): {9: 0.1}}


@pytest.mark.paper_step("aded", "tree search with rollouts")
def test_the_search_follows_the_only_way() -> None:
    table = TrigramTable({(1, 2): {3: 1.0}, (2, 3): {4: 1.0}, (3, 4): {5: 1.0}, (4, 5): {6: 1.0}})
    assert max(search(table, (1, 2), AdedConfig(), 4, HALF), key=len) == (3, 4, 5, 6)
    assert search(table, (1, 2), AdedConfig(), 1, HALF) == [(3,)]
    assert search(table, (8, 8), AdedConfig(), 4, HALF) == []


@pytest.mark.paper_step("aded", "choice of a child by PUCT with the table as prior")
def test_visits_follow_the_priors_and_the_weaker_way_is_visited_too() -> None:
    root = aded._Node((0, 0))
    root.children = [aded._Node((0, 1), 0.1), aded._Node((0, 2), 0.9)]
    for _ in range(60):
        child = root.best()
        child.visits, child.worth = child.visits + 1, child.worth + 1.0
        root.visits += 1
    weak, strong = (own.visits for own in root.children)
    assert strong > weak > 0


def test_equal_pairs_at_different_places_have_children_of_their_own() -> None:
    table = TrigramTable({(1, 1): {1: 0.6, 2: 0.4}})
    ways = search(table, (1, 1), AdedConfig(paths=100), 3, HALF)
    assert {(1, 1, 1), (1, 1, 2)} & set(ways)
    assert all(1 <= len(way) <= 3 for way in ways)


def test_what_a_decoder_learned_stays_only_where_it_is_asked_to() -> None:
    model, limits = tiny_llama(), Limits(max_new_tokens=40)

    def steps(method: aded.Aded) -> list[int]:
        return [len(generate(method, model, prompts([1, 2, 3]), limits, sources(1))[0].trace.tokens) for _ in range(2)]

    first, second = steps(make("aded", persist=True))
    assert second < first
    first, second = steps(make("aded"))
    assert first == second
    frozen = steps(make("aded", adaptive=False))
    assert frozen == [40, 40]


def test_what_lasts_belongs_to_one_decoder_and_its_states_and_only_where_it_persists() -> None:
    model, limits, asked = tiny_llama().eval(), Limits(max_new_tokens=12), prompts([1, 2, 3], [4, 5])
    lasting, other, plain = make("aded", persist=True), make("aded", persist=True), make("aded")
    for method in (lasting, plain):
        generate(method, model, asked, limits, sources(2))
    assert lasting.lasting.table is not None
    assert other.lasting.table is None
    assert plain.lasting.table is None
    state = lasting.start(model, asked, GenerationContext(tuple(sources(2)), limits))
    assert state.persistent_state is state.keep([1]).persistent_state is lasting.lasting
    assert state.tables[0] is state.tables[1] is lasting.lasting.table
    assert plain.start(model, asked, GenerationContext(tuple(sources(2)), limits)).persistent_state is not plain.lasting


def test_a_decoder_that_persists_learns_the_whole_prompt_of_every_row_too() -> None:
    far = range(5, 22)  # behind it, the tri-gram that the end repeats lies in front of the last 16 tokens
    asked = [[1, 2, 3, *far, 1, 2], [2, 1, 4, *far, 2, 1]]
    model, limits = tiny_llama(), Limits(max_new_tokens=8)

    def first_drafts(**settings: Any) -> list[int]:
        texts = generate(make("aded", **settings), model, prompts(*asked), limits, sources(2))
        return [text.trace.series()["proposed"][0] for text in texts]

    assert first_drafts(persist=True) == [0, 0]
    for adaptive in (True, False):
        learned = first_drafts(prompt=True, persist=True, adaptive=adaptive)
        assert learned == first_drafts(prompt=True, adaptive=adaptive) == [4, 4]


def test_what_a_prompt_taught_a_decoder_stays_where_it_persists() -> None:
    far, limits = range(5, 22), Limits(max_new_tokens=8)
    for persist, expected in ((True, 4), (False, 0)):
        method = make("aded", prompt=True, persist=persist, adaptive=False)
        generate(method, tiny_llama(), prompts([1, 2, 3, *far], [2, 1, 4, 1]), limits, sources(2))
        (text,) = generate(method, tiny_llama(), prompts([22, 1, 2]), limits, sources(1))
        assert text.trace.series()["proposed"][0] == expected


def test_rejected_tokens_teach_nothing(tmp_path: Path) -> None:
    model = tiny_llama()
    save_table(tmp_path / "table.json", random_table(VOCABULARY, 2000))
    method = make("aded", persist=True, table=tmp_path / "table.json")
    (found,) = generate(method, model, prompts([1, 2]), Limits(max_new_tokens=12), sources(1))
    text = [1, 2, *found.tokens]
    base, kept = load_table(tmp_path / "table.json"), method.lasting.table
    assert kept is not None
    changed = {pair for pair in kept._changed if kept.successors_of(pair) != base.get(pair, {})}
    assert changed <= set(pairwise(text))


def test_tables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    def ask(path: Path) -> None:
        generate(make("aded", table=path), tiny_llama(), prompts([1]), Limits(max_new_tokens=1), sources(1))

    with pytest.raises(FedsimError, match="nowhere.json is no table of tri-grams"):
        ask(tmp_path / "nowhere.json")
    (tmp_path / "wrong.json").write_text("[1]")
    with pytest.raises(FedsimError, match="wrong.json is no table of tri-grams"):
        ask(tmp_path / "wrong.json")
    save_table(tmp_path / "large.json", {(1, 2): {VOCABULARY: 1.0}})
    with pytest.raises(FedsimError, match=r"holds token 23, the model has 23: it was counted with another tokenizer"):
        ask(tmp_path / "large.json")


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    table = count_table([[1, 2, 3, 1, 2, 4, 1, 2, 3]])
    assert table[1, 2] == pytest.approx({3: 2 / 3, 4: 1 / 3})
    save_table(tmp_path / "table.json", table)
    assert load_table(tmp_path / "table.json") == table
    assert len(count_table([[0, 0, token, 9] for token in range(20)])[0, 0]) == 12


def test_a_table_is_read_once_for_all_texts_and_anew_when_its_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = tmp_path / "table.json", list[Path]()
    monkeypatch.setattr(aded, "load_table", lambda own: (read.append(own), load_table(own))[1])

    def drafted() -> int:
        limits = Limits(max_new_tokens=3)
        (text,) = generate(make("aded", table=path), tiny_llama(), prompts([1, 2]), limits, sources(1))
        return text.trace.series()["proposed"][0]

    save_table(path, {})
    assert [drafted(), drafted()] == [0, 0]
    assert read == [path]
    save_table(path, {(1, 2): {3: 1.0}})
    assert drafted() == 1
    assert read == [path, path]


def test_drafted_tokens_behind_the_end_are_not_accepted(tmp_path: Path) -> None:
    model = tiny_llama()
    (text,) = greedy(model, [[1, 2]], 6)
    assert text[1] != text[0]
    save_table(tmp_path / "table.json", count_table([[1, 2, *text]]))
    method = make("aded", table=tmp_path / "table.json", depth=5, adaptive=False)
    limits = Limits(max_new_tokens=9, stop_tokens=frozenset({text[1]}))
    (found,) = generate(method, model, prompts([1, 2]), limits, sources(1))
    series = found.trace.series()
    assert (found.trace.tokens, series["accepted"]) == ((2,), (2,))
    assert series["proposed"][0] >= 5, "the draft went on"
