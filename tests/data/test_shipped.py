"""Files of other packages are found without importing these."""

from fedsim.data._shipped import shipped


def test_a_file_that_no_package_ships_is_none() -> None:
    assert shipped("no_such_package", "a.csv") is None
    assert shipped("torch", "no_such_file.csv") is None
