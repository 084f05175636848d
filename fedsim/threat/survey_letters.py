"""Letters of threat models in a survey of gradient inversion, for the comparison of tools.

Source: Carletti, Foggia, Mazzocca, Parrella, Vento 2025, "SoK: Gradient Inversion Attacks in Federated Learning",
USENIX Security (no arXiv id). Only its table was read, not its definitions; the mapping of its columns to scenarios is
our interpretation.
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
    """Return the letter of the survey's row that matches the attacker.

    Every attacker of a scenario knows model, local steps and learning rate, which the server sets. With the batch size
    it has the table's basic knowledge and training details (C); public data make it D, and statistics of the client's
    inputs E. A server that changes the model is F, with public data G. B and H do not occur: no attacker knows the
    batch size without the training, or selects the participants.

    Args:
        server: whether the server is honest or malicious.
        knows: granted knowledge.
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
    """Return the sentence with the letter, its name, and grants beyond the survey's row."""
    row = letter(server, knows, has_public_data=has_public_data)
    covered = {"input-statistics"} if row == "E" else set[str]()
    beyond = [grant.beyond for name, grant in GRANTS.items() if grant.beyond and name in knows and name not in covered]
    more = f", and is granted {', '.join(beyond)} beyond it" if beyond else ""
    return f"By the letters of Carletti et al. (2025) it is {row}, the {NAMES[row]}{more}."
