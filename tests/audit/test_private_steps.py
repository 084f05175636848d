"""A private step as a function describes it; the command's test has the mistakes."""

from pathlib import Path

import pytest

from fedsim.audit.private_steps import check_target
from fedsim.core.errors import FedsimError

STEP = """
import torch

def describe():
    def step(inputs, labels, seed, number):
        source = torch.Generator().manual_seed(100 * seed + number)
        return {"sum": FACTOR * inputs.sign().sum(0) + 4.0 * torch.randn(1, generator=source)}

    return step, (torch.ones(9, 1), torch.arange(9)), 4.0
"""


def test_a_step_is_called_with_its_records_seed_and_number(tmp_path: Path) -> None:
    """Signs of one column have a norm of at most 1; three times as much is more than is stated."""
    kept, broken = tmp_path / "signs.py", tmp_path / "thrice.py"
    kept.write_text(STEP.replace("FACTOR", "1").replace("inputs.sign()", "inputs.sign().nan_to_num()"))
    broken.write_text(STEP.replace("FACTOR", "3").replace("inputs.sign()", "inputs.sign().nan_to_num()"))
    assert check_target(f"{kept}:describe").faults == ()
    assert "one record moves" in check_target(f"{broken}:describe").faults[0]


def test_a_step_that_fails_on_an_ordinary_record_is_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "failing.py"
    file.write_text(STEP.replace("FACTOR", "1 / 0"))
    with pytest.raises(FedsimError, match="failed on a record: ZeroDivisionError"):
        check_target(f"{file}:describe")
