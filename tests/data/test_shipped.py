"""Files of other packages are found without importing these."""

from fedsim.data._shipped import find_package_file


def test_a_file_that_no_package_ships_is_none() -> None:
    assert find_package_file("no_such_package", "a.csv") is None
    assert find_package_file("torch", "no_such_file.csv") is None
