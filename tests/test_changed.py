"""What mirrors a change."""

import subprocess
from pathlib import Path

from tests.changed import changed, mirrors_of


def test_a_changed_file_is_mirrored_by_its_tests_and_the_contract_of_its_folder() -> None:
    files = [Path("fedsim/threat/observe.py"), Path("attacks/text/dager.py"), Path("README.md")]
    expected = ["tests/attacks/text/test_dager.py", "tests/threat/test_observe.py"]
    assert [str(test) for test in mirrors_of(files)] == expected
    contract = Path("tests/attacks/membership/test_contract.py")
    assert contract in mirrors_of([Path("attacks/membership/lira.py")])


def test_a_test_mirrors_itself_and_what_has_none_is_left_out() -> None:
    test = Path("tests/threat/test_observe.py")
    assert mirrors_of([test, Path("tests/conftest.py"), Path("fedsim/threat/no_such_file.py")]) == [test]


def test_what_is_not_committed_and_what_is_new_counts(tmp_path: Path) -> None:
    def git(*command: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(["git", *who, *command], cwd=tmp_path, check=True, capture_output=True)

    git("init", "--initial-branch", "main")
    for name in ("same.py", "other.py", "gone.py"):
        (tmp_path / name).write_text("one\n")
    git("add", ".")
    git("commit", "--message", "one")
    (tmp_path / "other.py").write_text("two\n")
    (tmp_path / "gone.py").unlink()
    (tmp_path / "new.py").write_text("three\n")
    assert changed("main", tmp_path) == [Path("other.py"), Path("new.py")]
