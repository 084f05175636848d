"""ADED's benchmarks: trees by size with a table of given texts, and who was asked before."""

from pathlib import Path

from benchmarks.aded_memory import told_apart_by_pace
from benchmarks.aded_trees import NODES, trees
from fedsim.components.decoder.aded import load_table


def test_trees_have_their_size_and_the_table_of_the_texts(tmp_path: Path) -> None:
    built = trees(tmp_path, [[1, 2, 3], [1, 2, 4], [1, 2, 3]])
    assert [own.config.nodes for own in built.values()] == [own.config.depth for own in built.values()] == list(NODES)
    (path,) = {own.config.table for own in built.values()}
    assert load_table(path) == {(1, 2): {3: 2 / 3, 4: 1 / 3}}


def test_the_area_counts_pairs_in_order_and_ties_half() -> None:
    assert told_apart_by_pace("", [3.0, 2.0], [1.0, 2.0]).value == 0.875
    assert told_apart_by_pace("", [1.0, 1.0], [1.0, 1.0]).value == 0.5
