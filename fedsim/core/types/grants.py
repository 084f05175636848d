"""What a threat model may grant an attacker, and how records, pages and sentences call it.

A further grant is a name of `Knowledge`, an object of `GRANTS`, a line in the door
(`fedsim.threat.observe.observe`) and a row in docs/scenarios.md.
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
    "draws",
    "given",
    "earlier-rounds",
]


Server = Literal["honest-but-curious", "malicious"]  # whether the server also changes the model that it hands out


View = Literal["single-update", "sum"]  # what the server sees of a round: each client's update, or only their mean


@dataclass(frozen=True, kw_only=True)
class Grant:
    """Something that a threat model may grant.

    Attributes:
        name: in a scenario's `threat.knows`.
        opens: the fields of an `Observation` that are empty or hold less without it.
        called: its name in lists of assumptions.
        has: what an attacker knows with it, as the end of "It knows ...".
        lacks: what holds without it, as the end of "It ...".
        realistic: whether a real attacker has it, in a word or two.
        why: the reason for that.
        beyond: its name where a survey's letters for threat models do not cover it; empty where nothing is said.
        depends_on_task: whether there is such a thing at all for some tasks alone (`Task.knowable`).
        is_drawn: whether a client draws it in a step.
    """

    name: Knowledge
    opens: frozenset[str]
    called: str
    has: str
    lacks: str
    realistic: str
    why: str
    beyond: str = ""
    depends_on_task: bool = False
    is_drawn: bool = False


# Realistic or not, and why: Huang et al. 2021, arXiv 2112.00059, sections 3 and 4, for labels and statistics.
_ALL = (
    Grant(
        name="labels",
        opens=frozenset({"labels"}),
        called="the labels",
        has="the labels of the batch",
        lacks="must infer the labels",
        realistic="often not",
        why="a server sees no labels; without them attacks on batches weaken a lot",
        beyond="labels",
        depends_on_task=True,
    ),
    Grant(
        name="masks",
        opens=frozenset({"masks"}),
        called="the dropout masks",
        has="the dropout masks the client drew",
        lacks="does not see the dropout masks",
        realistic="no",
        why="they never leave the client: this is a control",
        beyond="masks",
        is_drawn=True,
    ),
    Grant(
        name="batch-size",
        opens=frozenset({"batch_size", "batch_sizes", "examples", "sites", "update"}),
        called="the batch size",
        has="the batch size",
        lacks="does not know the batch size",
        realistic="yes",
        why="it is part of the protocol, or of the number of examples that is sent",
    ),
    Grant(
        name="dropout-rates",
        opens=frozenset({"model", "sites"}),
        called="the dropout rates",
        has="where and at which rate the model drops out",
        lacks="does not know the dropout rates",
        realistic="yes",
        why="they stand in the code that the server sends",
    ),
    Grant(
        name="input-statistics",
        opens=frozenset({"spec"}),
        called="the input statistics",
        has="how inputs are normalised",
        lacks="does not know how inputs are normalised",
        realistic="mostly",
        why="mean and deviation of a public kind of data are easily guessed",
        beyond="input statistics",
        depends_on_task=True,
    ),
    Grant(
        name="defenses",
        opens=frozenset({"public"}),
        called="the defenses in use",
        has="the description of every defense in use",
        lacks="does not know which defenses are in use",
        realistic="yes",
        why="a defense that must stay secret is none",
    ),
    Grant(
        name="components",
        opens=frozenset({"public"}),
        called="the components in use",
        has="the description of every component in use",
        lacks="does not know which components are in use",
        realistic="yes",
        why="they stand in the code that the server sends",
    ),
    Grant(
        name="draws",
        opens=frozenset({"draws"}),
        called="what components and task drew",
        has="what components and task drew",
        lacks="does not see what components and task drew",
        realistic="no",
        why="they never leave the client: this is a control",
        beyond="hidden draws",
        is_drawn=True,
    ),
    Grant(
        name="given",
        opens=frozenset({"given"}),
        called="what the model reads beside the examples",
        has="what the model reads beside the examples",
        lacks="does not see what the model reads beside the examples",
        realistic="often not",
        why="it belongs to the example, as a question beside an image",
        beyond="what is given beside the inputs",
    ),
    Grant(
        name="earlier-rounds",
        opens=frozenset({"earlier"}),
        called="what the client sent in the attacked rounds before",
        has="what a client sent in the attacked rounds before",
        lacks="looks at every round for itself",
        realistic="yes",
        why="a server keeps what it received",
        beyond="earlier rounds",
    ),
)

GRANTS: Mapping[Knowledge, Grant] = {grant.name: grant for grant in _ALL}
"""Every grant by its name, in the order in which sentences list them."""


@dataclass(frozen=True)
class Grants:
    """What a scenario grants to one method.

    Attributes:
        knows: what the attacker knows, with what this method knows beyond the threat model.
        sees: what the server sees in a round.
        may_craft: whether the server may change the model that clients receive.
        masks_updates: whether secure aggregation hides single updates from the server.
        is_attacked: whether attacks look at what the server sees.
    """

    knows: frozenset[Knowledge]
    sees: View
    may_craft: bool
    masks_updates: bool
    is_attacked: bool
