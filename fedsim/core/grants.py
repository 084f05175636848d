"""Grants of a threat model, and their names in records, pages and sentences.

A new grant needs a name in `Knowledge`, an object in `GRANTS`, a line in `fedsim.threat.observe.observe` and a row in
docs/scenarios.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Knowledge = Literal[
    "labels",
    "masks",
    "batch-size",
    "dropout-rates",
    "input-statistics",
    "defenses",
    "components",
    "client-randomness",
    "extra-inputs",
    "earlier-rounds",
]


Server = Literal["honest-but-curious", "malicious"]  # whether the server also crafts the model that it sends


View = Literal["single-update", "sum"]  # the server's view of a round: each client's update, or only their mean


@dataclass(frozen=True, kw_only=True)
class Grant:
    """Knowledge that a threat model may grant.

    Attributes:
        name: its name in a scenario's `threat.knows`.
        opens: fields of an `Observation` that are empty or reduced without it.
        assumption_name: its name in lists of assumptions.
        has: the attacker's knowledge with it, as the end of "It knows ...".
        lacks: the attacker's situation without it, as the end of "It ...".
        realistic: whether a real attacker has it, in a word or two.
        why: the reason for `realistic`.
        depends_on_task: whether it exists for some tasks only (`Task.knowable`).
        is_drawn: whether it is a random draw of the client in a step.
    """

    name: Knowledge
    opens: frozenset[str]
    assumption_name: str
    has: str
    lacks: str
    realistic: str
    why: str
    depends_on_task: bool = False
    is_drawn: bool = False


# Reasons for `realistic`: Huang et al. 2021, arXiv 2112.00059, sections 3 and 4, for labels and statistics.
_ALL = (
    Grant(
        name="labels",
        opens=frozenset({"labels"}),
        assumption_name="the labels",
        has="the labels of the batch",
        lacks="must infer the labels",
        realistic="often not",
        why="a server sees no labels; without them attacks on batches weaken a lot",
        depends_on_task=True,
    ),
    Grant(
        name="masks",
        opens=frozenset({"masks"}),
        assumption_name="the dropout masks",
        has="the dropout masks the client drew",
        lacks="does not see the dropout masks",
        realistic="no",
        why="they never leave the client: this is a control",
        is_drawn=True,
    ),
    Grant(
        name="batch-size",
        opens=frozenset({"batch_size", "batch_sizes", "examples", "sites", "update"}),
        assumption_name="the batch size",
        has="the batch size",
        lacks="does not know the batch size",
        realistic="yes",
        why="it is part of the protocol, or of the number of examples that is sent",
    ),
    Grant(
        name="dropout-rates",
        opens=frozenset({"model", "sites"}),
        assumption_name="the dropout rates",
        has="where and at which rate the model drops out",
        lacks="does not know the dropout rates",
        realistic="yes",
        why="they are part of the code that the server sends",
    ),
    Grant(
        name="input-statistics",
        opens=frozenset({"spec"}),
        assumption_name="the input statistics",
        has="how inputs are normalised",
        lacks="does not know how inputs are normalised",
        realistic="mostly",
        why="mean and deviation of a public kind of data are easily guessed",
        depends_on_task=True,
    ),
    Grant(
        name="defenses",
        opens=frozenset({"known_methods"}),
        assumption_name="the defenses in use",
        has="the description of every defense in use",
        lacks="does not know which defenses are in use",
        realistic="yes",
        why="a defense that must stay secret is none",
    ),
    Grant(
        name="components",
        opens=frozenset({"known_methods"}),
        assumption_name="the components in use",
        has="the description of every component in use",
        lacks="does not know which components are in use",
        realistic="yes",
        why="they are part of the code that the server sends",
    ),
    Grant(
        name="client-randomness",
        opens=frozenset({"draws"}),
        assumption_name="the random draws of components and task",
        has="the random draws of components and task",
        lacks="does not see the random draws of components and task",
        realistic="no",
        why="they never leave the client: this is a control",
        is_drawn=True,
    ),
    Grant(
        name="extra-inputs",
        opens=frozenset({"extra_inputs"}),
        assumption_name="the model's additional inputs",
        has="the model's additional inputs",
        lacks="does not see the model's additional inputs",
        realistic="often not",
        why="it belongs to the example, like the question about an image",
    ),
    Grant(
        name="earlier-rounds",
        opens=frozenset({"earlier_observations"}),
        assumption_name="the client's updates in the earlier attacked rounds",
        has="a client's updates in the earlier attacked rounds",
        lacks="attacks every round separately",
        realistic="yes",
        why="a server can store received updates",
    ),
)

GRANTS: Mapping[Knowledge, Grant] = {grant.name: grant for grant in _ALL}
"""All grants by name, in the order in which sentences list them."""


@dataclass(frozen=True)
class Grants:
    """Grants of a scenario to one method.

    Attributes:
        knows: the attacker's knowledge, including this method's additional knowledge.
        view: the server's view of a round.
        may_craft: whether the server may change the model that clients receive.
        masks_updates: whether secure aggregation hides single updates from the server.
        is_attacked: whether attacks use the server's view.
    """

    knows: frozenset[Knowledge]
    view: View
    may_craft: bool
    masks_updates: bool
    is_attacked: bool
