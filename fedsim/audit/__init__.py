"""Audit of a user's own model: leakage of its updates, and the cost of defenses.

Public names are loaded on first use:

    audit_client  audit a model with its loss and loader (also `fedsim.audit_client`)
    AuditPlan     settings of an audit
    AuditRecord   result of an audit
    Subject       model, loss and loader with their details
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedsim.audit.client_audit import audit_client
    from fedsim.audit.record import AuditPlan, AuditRecord
    from fedsim.audit.subject import Subject

__all__ = ["AuditPlan", "AuditRecord", "Subject", "audit_client"]

_HOMES = {
    "AuditPlan": "record",
    "AuditRecord": "record",
    "Subject": "subject",
    "audit_client": "client_audit",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a public name on first use: a command that names a module of this package does not load torch."""
        if name not in _HOMES:
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
