"""Findings that nobody made, for reports to show."""

from typing import Any

from fedsim.record import Finding, Interval


def of_traces(low: float, share: float, **more: Any) -> Finding:
    """A finding of an attack on traces, of 50 units; what is given replaces a field."""
    own: dict[str, Any] = {
        "question": "generation",
        "label": "forest (prompt)",
        "method": "trace-forest",
        "scope": {"question": "prompt", "view": "counts", "by": "aded"},
        "metric": "prompt_accuracy",
        "value": Interval(value=share, low=low, high=min(1.0, 2 * share - low), n=50),
        "chance_level": 0.02,
    }
    return Finding(**(own | more))


STRONG = of_traces(0.5, 0.6)
PADDED = of_traces(
    0.01,
    0.02,
    label="padded (prompt)",
    scope={"question": "prompt", "view": "counts", "mitigation": "trace-padding", "by": "aded"},
    extra_metrics={
        "step_ratio": Interval(value=1.5, low=None, high=None, n=50),
        "token_ratio": Interval(value=3.0, low=None, high=None, n=50),
    },
)
CONTROL = of_traces(0.9, 0.96, label="text (prompt)", role="positive-control", scope={"view": "outputs"})
LOST = of_traces(0.1, 0.2, label="lost (prompt)", value=None, failure="it learns from known texts")


def of_attributes(label: str, attribute: str, share: float, low: float, **more: Any) -> Finding:
    """A finding of an attack on an attribute, of 60 updates; what is given replaces a field."""
    own: dict[str, Any] = {
        "question": "attributes",
        "label": label,
        "method": "change-norms",
        "settings": {"probe": "ridge"},
        "scope": {"attribute": attribute, "values": 2, "left out": 3},
        "metric": "attribute_balanced_accuracy",
        "value": Interval(value=share, low=low, high=1.0, n=60),
        "chance_level": 0.5,
    }
    return Finding(**(own | more))


PERMUTED = of_attributes("a, values permuted", "parity", 0.5, 0.4, role="negative-control")
UNREAD = of_attributes("c", "topic", 0.0, 0.0, value=None, chance_level=None, failure="no tensor")
