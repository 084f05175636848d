"""Only a whole record counts as finished."""

from pathlib import Path

from fedsim.experiment.sweep.heads import is_finished


def test_only_a_whole_record_counts_as_finished(tmp_path: Path) -> None:
    whole = '{\n "schema_version": 3,\n "status": "finished",\n "arms": [\n  {\n  }\n ],\n "failures": {\n }\n}'
    record = tmp_path / "record.json"
    assert not is_finished(record)
    record.write_text(whole)
    assert is_finished(record)
    record.write_text(whole.replace('"schema_version": 3', '"schema_version": 2'))
    assert not is_finished(record)
    for end in range(len(whole)):
        record.write_text(whole[:end])
        assert not is_finished(record)
