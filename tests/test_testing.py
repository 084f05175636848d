"""The fixture of pytest, in projects of their own."""

from typing import Any

import pytest

import fedsim.audit
from fedsim.audit.record import AuditArm
from fedsim.core.errors import FedsimError
from fedsim.judgement.policy import Policy
from tests.audit.findings import ENOUGH, attacked, record

pytest_plugins = ["pytester"]

CLIENT = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

def make_client():
    source = torch.Generator().manual_seed(5)
    torch.manual_seed(1)
    images = nn.functional.interpolate(torch.rand(40, 1, 4, 4, generator=source), size=(8, 8), mode="bilinear")
    data = TensorDataset(images, torch.randint(4, (40,), generator=source))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 4))
    return model, None, DataLoader(data, batch_size=8)
"""
TEST = """
def test_client(fedsim_audit):
    record = fedsim_audit("client:make_client", batches=(1,), minutes=1, updates=2)
    assert record.client
"""
PLUGIN = ("-p", "fedsim.testing", "-p", "no:cacheprovider")


def written(pytester: pytest.Pytester, limits: str) -> None:
    pytester.makepyfile(test_client=TEST)
    pytester.makepyprojecttoml(f"[tool.fedsim.policy]\n{limits}\n")


def ended(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, limits: str, arm: AuditArm) -> pytest.RunResult:
    """Run a test of an audit that comes to this arm."""

    def audit(_client: str, policy: Policy, **_settings: Any) -> Any:
        return record(policy, client=(arm,))

    monkeypatch.setattr(fedsim.audit, "audit_client", audit)
    written(pytester, limits)
    return pytester.runpytest_inprocess(*PLUGIN)


@pytest.mark.slow
def test_a_client_that_leaks_fails_with_what_was_recovered_and_where_the_page_is(pytester: pytest.Pytester) -> None:
    written(pytester, "max_recovered = 0.05")
    pytester.makepyfile(client=CLIENT)
    pytester.syspathinsert()
    result = pytester.runpytest_subprocess(*PLUGIN)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "Updates of one image give the image back exactly (2 of 2): 2 updates were attacked for * s.",
            "The policy is broken: max_recovered = 0.05, but 100 % (34 to 100) of the attacked examples of batch 1 "
            "were identified.",
            "Page: *audit.html",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_client_that_keeps_the_policy_passes(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(pytester, monkeypatch, "max_recovered = 0.1", attacked(0, ENOUGH)).assert_outcomes(passed=1)


@pytest.mark.parametrize(("word", "outcome"), [("fail", "failed"), ("pass", "passed")])
def test_what_is_undecided_fails_unless_the_policy_lets_it_pass(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, word: str, outcome: str
) -> None:
    result = ended(pytester, monkeypatch, f'max_recovered = 0.1\nundecided = "{word}"', attacked(0))
    result.assert_outcomes(**{outcome: 1})
    if word == "fail":
        result.stdout.fnmatch_lines(
            ["The policy is undecided: max_recovered on batch 1, since n = 4 leaves 0 to 49 %*"]
        )


def test_without_a_threshold_nothing_passes(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    result = ended(pytester, monkeypatch, "", attacked(0))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["no threshold to check: write * into *pyproject.toml, or give policy=*"])


def test_a_mistake_fails_with_its_sentence(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    def audit(_client: str, **_settings: Any) -> Any:
        raise FedsimError("the model has nothing to train.")

    monkeypatch.setattr(fedsim.audit, "audit_client", audit)
    written(pytester, "max_recovered = 0.1")
    result = pytester.runpytest_inprocess(*PLUGIN)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["the model has nothing to train."])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_loading_the_plugin_loads_no_torch(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import sys\ndef test_nothing(): assert 'torch' not in sys.modules")
    pytester.runpytest_subprocess(*PLUGIN).assert_outcomes(passed=1)
