"""Files of code are kept and data sets left out, in as few paths as possible."""

from pathlib import Path

import pytest

from fedsim.processes.code_files import code_paths, standard_library, system_libraries


def made(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    return folder


def kept(folder: Path) -> set[str]:
    return {str(Path(path).relative_to(folder)) for path in code_paths(folder)}


def test_a_folder_without_data_is_one_path(tmp_path: Path) -> None:
    assert kept(made(tmp_path, "a/b/c.py", "a/LICENSE.txt", "weights.pt")) == {"."}
    assert kept(tmp_path / "absent") == {"."}


def test_data_is_left_out_by_its_suffix_and_clean_folders_stay_whole(tmp_path: Path) -> None:
    made(tmp_path, "one/x.py", "one/deep/y.py", "two/z.py", "two/digits.csv.gz", "two/clean/w.py", "two/A.CSV")
    assert kept(tmp_path) == {"one", "two/z.py", "two/clean"}


def test_a_folder_of_data_without_code_is_left_out_as_a_whole(tmp_path: Path) -> None:
    made(tmp_path, "x.py", "test_data/lee.cor", "test_data/names", "test_data/deep/more", "pictures/a.jpg")
    assert kept(tmp_path) == {"x.py"}


def test_a_folder_of_data_with_code_below_it_keeps_the_code(tmp_path: Path) -> None:
    made(tmp_path, "data/rows.npz", "data/read/load.py", "data/read/__init__.py")
    assert kept(tmp_path) == {"data/read"}


@pytest.mark.parametrize("name", ["tests", "data", "datasets", "benchmarks"])
def test_of_a_folder_of_tests_or_data_only_code_is_kept(tmp_path: Path, name: str) -> None:
    made(
        tmp_path, "x.py", "rules.json", f"{name}/rows.txt", f"{name}/load.py", f"{name}/raw/rows.json", f"{name}/a/b.so"
    )
    made(tmp_path, f"{name}/a/mine.txt.py", f"{name}/raw/names", "metadata/rules.json", "metadata/y.py")
    assert kept(tmp_path) == {"x.py", "rules.json", f"{name}/load.py", f"{name}/a", "metadata"}
    (tmp_path / name / "link.py").symlink_to("rows.txt")
    assert f"{name}/link.py" not in kept(tmp_path)
    assert f"{name}/rows.txt" not in kept(tmp_path)


def test_what_packages_say_of_themselves_stays(tmp_path: Path) -> None:
    made(tmp_path, "x.csv", "y.py", "p-1.dist-info/RECORD.gz", "q.egg-info/names.txt")
    assert kept(tmp_path) == {"y.py", "p-1.dist-info", "q.egg-info"}


def test_a_link_counts_as_what_it_leads_to(tmp_path: Path) -> None:
    made(tmp_path, "real/rows.csv", "real/deep/code.py", "kept/more.py", "package/x.py", "package/own.csv")
    for name, target in (
        ("more", "../real"),
        ("rows", "../real/rows.csv"),
        ("table.csv", "../real/deep/code.py"),
        ("clean", "../kept"),
        ("self", "."),
        ("dangling", "nowhere"),
    ):
        (tmp_path / "package" / name).symlink_to(target)
    places = {str(Path(path).relative_to(tmp_path)) for path in code_paths(tmp_path / "package")}
    assert places == {"package/x.py", "real/deep", "kept", "package/nowhere"}


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    made(tmp_path, "a/x.py", "b/y.py", "b/z.csv")
    (tmp_path / "a" / "b").symlink_to("../b")
    (tmp_path / "b" / "a").symlink_to("../a")
    assert {str(Path(path).relative_to(tmp_path)) for path in code_paths(tmp_path / "a")} == {"a/x.py", "b/y.py"}


@pytest.mark.parametrize("suffix", [".csv", ".npy", ".parquet", ".png", ".wav", ".pkl", ".cor", ".zip"])
def test_data_has_many_suffixes(tmp_path: Path, suffix: str) -> None:
    made(tmp_path, "m.so", f"rows{suffix}", "kernel.cu")
    assert kept(tmp_path) == {"m.so", "kernel.cu"}


def test_of_python_itself_installed_packages_and_tests_are_left_out(tmp_path: Path) -> None:
    made(tmp_path, "os.py", "json/a.py", "site-packages/p.py", "dist-packages/q.py", "test/data.gz")
    assert sorted(Path(path).name for path in standard_library(tmp_path)) == ["json", "os.py"]
    made(tmp_path, "libc.so", "python3/x", "python3.11/x", "x86/liba.so")
    assert {Path(path).name for path in system_libraries(tmp_path)} >= {"libc.so", "x86"}
    assert not any(Path(path).name.startswith("python") for path in system_libraries(tmp_path))
