"""Threat models by letter, as a survey of gradient inversion orders them, so that tools can be compared.

Source: Carletti, Foggia, Mazzocca, Parrella, Vento 2025, "SoK: Gradient Inversion Attacks in Federated Learning",
USENIX Security (no arXiv id). Its table was read, its definitions were not; what its columns mean for a scenario is our
reading.
"""

from __future__ import annotations

from collections.abc import Collection

from fedsim.core.types import GRANTS, Knowledge, Server

NAMES = {
    "A": "eavesdropper",
    "C": "parameter-aware eavesdropper",
    "D": "data-enhanced eavesdropper",
    "E": "statistical-informed eavesdropper",
    "F": "active manipulator",
    "G": "data-enhanced manipulator",
}


def letter(server: Server, knows: Collection[Knowledge], *, has_public_data: bool) -> str:
    """Return the letter whose row the attacker fills.

    Every attacker of a scenario knows model, local steps and learning rate, which the server sets. With the batch size
    it has what the table calls basic knowledge and training details (C); public data make that D, and statistics of the
    client's inputs E. A server that changes the model is F, with public data G. B and H do not occur: nobody knows the
    batch size and not the training, or chooses who takes part.

    Args:
        server: whether it changes the model.
        knows: what it is granted.
        has_public_data: whether the attacker owns data like the client's.
    """
    if server == "malicious":
        return "G" if has_public_data else "F"
    if "batch-size" not in knows:
        return "A"
    if not has_public_data:
        return "C"
    return "E" if "input-statistics" in knows else "D"


def sentence(server: Server, knows: Collection[Knowledge], *, has_public_data: bool) -> str:
    """Return the letter with its name, and what the attacker is granted that no row has; for people."""
    row = letter(server, knows, has_public_data=has_public_data)
    covered = {"input-statistics"} if row == "E" else set[str]()
    beyond = [grant.beyond for name, grant in GRANTS.items() if grant.beyond and name in knows and name not in covered]
    more = f", and is granted {', '.join(beyond)} beyond it" if beyond else ""
    return f"By the letters of Carletti et al. (2025) it is {row}, the {NAMES[row]}{more}."
