"""A fixture of pytest: a test that fails where updates of a client give away more than the policy allows.

def test_a_client_keeps_the_policy(fedsim_audit):
    fedsim_audit(make_client, batches=(1, 4), minutes=2)

pytest loads this wherever fedsim is installed, so torch is loaded when a test audits, not before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from fedsim.audit import AuditRecord


@pytest.fixture
def fedsim_audit(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., AuditRecord]:
    """Return a function that audits a client, fails the test if the policy is not kept, and returns the record.

    It has the arguments of `fedsim.audit_client`. By default it applies the policy of the project's pyproject.toml and
    tests no defenses.
    """

    def audited(client: Any, **settings: Any) -> AuditRecord:
        __tracebackhide__ = True
        from fedsim.audit import audit_client, verdict  # noqa: PLC0415
        from fedsim.audit.limits import client_thresholds  # noqa: PLC0415
        from fedsim.core.errors import FedsimError  # noqa: PLC0415
        from fedsim.judgement.policy import policy_of  # noqa: PLC0415
        from fedsim.report.limits import policy_outcome  # noqa: PLC0415

        project = pytestconfig.rootpath / "pyproject.toml"
        settings = {"policy": policy_of(project), "out": tmp_path_factory.mktemp("audit"), "defend": False, **settings}
        if settings["policy"].is_empty:
            pytest.fail(
                f"no threshold to check: write [tool.fedsim.policy] into {project}, or give policy=Policy(...)",
                pytrace=False,
            )
        try:
            record = audit_client(client, **settings)
        except FedsimError as error:
            pytest.fail(str(error), pytrace=False)
        found = policy_outcome(record.policy, client_thresholds(record))
        if found.exit_code:
            lines = (verdict.answer(record).sentence, *found.sentences, f"Page: {settings['out'] / 'audit.html'}")
            pytest.fail("\n".join(lines), pytrace=False)
        return record

    return audited
