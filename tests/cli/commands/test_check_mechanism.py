"""`fedsim check-mechanism`: the page's example passes, a lie ends with 1, and a mistake with 2 and one sentence."""

import re
from pathlib import Path

import pytest

from tests.cli.typed import Say

PAGE = Path(__file__).parents[3] / "docs" / "accounting.md"
EXAMPLE = "import torch\n\n" + re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]


def written(tmp_path: Path, name: str, text: str) -> str:
    file = tmp_path / f"{name}.py"
    file.write_text(text)
    return f"{file}:describe"


def test_the_example_of_the_page_passes(command: Say, tmp_path: Path) -> None:
    code, told, said = command("check-mechanism", written(tmp_path, "kept_step", EXAMPLE))
    assert (code, said) == (0, "")
    assert "No fault found: 81 pairs of neighbouring batches were tried" in " ".join(told.split())


def noise_check(command: Say, folder: Path, drawn: str) -> tuple[int, str, str]:
    head = "import torch\nfrom fedsim.privacy.secure_noise import normal\n\ndef describe():\n    return"
    return command("check-mechanism", "--noise", written(folder, "drawn_step", f"{head} {{'w': {drawn}}}\n"))


def test_the_noise_of_a_seed_is_broken(command: Say, tmp_path: Path) -> None:
    seeded = "torch.empty(40, 5).normal_(generator=torch.Generator().manual_seed(5))"
    code, told, said = noise_check(command, tmp_path, seeded)
    assert (code, told) == (1, "")
    assert "Broken: the noise is computable (MT19937 (torch CPU), seed 5 from 200 coordinates" in " ".join(said.split())
    assert "secure(optimizer)" in said


@pytest.mark.slow  # every seed is tried
def test_the_noise_of_chacha20_is_not_broken(command: Say, tmp_path: Path) -> None:
    code, told, said = noise_check(command, tmp_path, "normal(torch.empty(40, 5))")
    assert (code, said) == (0, "")
    assert "Not broken" in told


def test_half_of_the_noise_is_noticed(command: Say, tmp_path: Path) -> None:
    target = written(tmp_path, "quiet_step", EXAMPLE.replace("2.0 * torch", "1.0 * torch"))
    code, told, said = command("check-mechanism", target)
    assert (code, told) == (1, "")
    assert "The step does not keep its noise multiplier" in said
    assert "one record moves the output by" in said


def sampled(claim: str) -> str:
    return EXAMPLE.replace("torch.zeros(9)), 2.0\n", f"torch.zeros(9)), 2.0, {claim}\n")


def test_sizes_of_poisson_batches_pass_and_those_of_shuffled_passes_are_noticed(command: Say, tmp_path: Path) -> None:
    drawn = "(torch.rand(40, 1000, generator=torch.Generator().manual_seed(0)) < 0.05).sum(1).tolist()"
    code, _, said = command("check-mechanism", written(tmp_path, "drawn", sampled(f"({drawn}, 1000, 0.05)")))
    assert (code, said) == (0, "")
    code, told, said = command("check-mechanism", written(tmp_path, "shuffled", sampled("([50] * 40, 1000, 0.05)")))
    assert (code, told) == (1, "")
    assert "batches are not drawn by Poisson sampling: the variance of 40 sizes is 0 of N q (1 - q) = 47.5" in said


@pytest.mark.parametrize(
    ("name", "claim", "sentence"),
    [
        ("no_claim", "[50] * 40", "is no tuple (sizes of batches, number of records, rate)"),
        ("none_drawn", "([50] * 40, 0, 0.05)", "the number of records is 0, expected 1 to 10,000,000"),
        ("often", "([50] * 40, 1000, 50)", "the sampling rate is 50, expected a number between 0 and 1"),
        ("halves", "([50.5] * 40, 1000, 0.05)", "a size of a batch is no whole number from 0 to 1000"),
        ("few_sizes", "([50] * 3, 1000, 0.05)", "gives 3 sizes of batches, expected 8 at least"),
    ],
)
def test_a_sampling_claim_that_is_none_ends_with_one_sentence(
    command: Say, tmp_path: Path, name: str, claim: str, sentence: str
) -> None:
    code, told, said = command("check-mechanism", written(tmp_path, name, sampled(claim)))
    assert (code, told) == (2, "")
    assert sentence in " ".join(said.split())


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("two_values", (", 2.0\n", "\n"), "returned (function, tuple), expected a tuple (step, (inputs, labels)"),
        ("no_step", ("return step, (", "return 3, ("), "with step a function of inputs"),
        ("no_pair", ("(torch.randn(9, 20), torch.zeros(9))", "torch.randn(9, 20)"), "no pair (inputs, labels)"),
        ("one_record", ("(torch.randn(9, 20), torch.zeros(9))", "(torch.ones(1, 2), torch.ones(1))"), "expected 2 at"),
        ("no_noise", (", 2.0\n", ", 0\n"), "the noise multiplier is 0, expected a number above 0"),
        ("raises", ("    return step", "    raise ValueError('none')\n    return step"), "failed: ValueError: none"),
        ("a_list", ('return {"sum": total', 'return [total'), "failed"),
        ("no_function", ("def describe():\n    return ", "describe = "), "is of type tuple, expected a function"),
        ("absent", ("def describe", "def describes"), "has no 'describe'. Did you mean 'describes'?"),
    ],
)  # fmt: skip
def test_a_mistake_ends_with_one_sentence(
    command: Say, tmp_path: Path, name: str, change: tuple[str, str], sentence: str
) -> None:
    changed = EXAMPLE.replace(*change).replace("source)}", "source)]" if name == "a_list" else "source)}")
    assert changed != EXAMPLE
    code, told, said = command("check-mechanism", written(tmp_path, name, changed))
    assert (code, told) == (2, "")
    assert sentence in " ".join(said.split())
    assert "Traceback" not in said
