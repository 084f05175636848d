"""A small audit as it is recorded."""

from fedsim.audit.record import AuditRecord
from fedsim.judgement.policy import Policy
from tests.audit.findings import ENOUGH, attacked, record

POLICY = Policy(max_recovered=0.1, max_epsilon=8.0)


def audited(policy: Policy = POLICY) -> AuditRecord:
    kept, open_ = attacked(0, ENOUGH, batch=1), attacked(0, 4, batch=2, converged=False)
    return record(policy, client=(kept, open_, attacked(4, batch=4)))
