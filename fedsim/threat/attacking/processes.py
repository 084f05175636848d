"""In which processes attacks of every kind run: in that of the run, or each attack in one of its own."""

from __future__ import annotations

from typing import NamedTuple

from fedsim.threat.attacking import Attackers, in_process
from fedsim.threat.attacking.apart import start_isolated
from fedsim.threat.attacking.asking import Askers, ask_here, ask_isolated
from fedsim.threat.attacking.reading import Readers, read_here, read_isolated


class Processes(NamedTuple):
    """What starts attacks. Records are the same wherever attacks run.

    Attributes:
        attackers: starts attacks on updates.
        readers: starts attacks on traces of generations.
        askers: starts attacks on attributes.
    """

    attackers: Attackers
    readers: Readers
    askers: Askers


HERE = Processes(in_process, read_here, ask_here)
ISOLATED = Processes(start_isolated, read_isolated, ask_isolated)
