"""Runs without SuperLink and SuperNodes."""

from flwr.supercore import telemetry
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = ["Run", "TaskIdentity", "telemetry"]
