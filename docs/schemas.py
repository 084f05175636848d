"""JSON schemas of the files that a site or a project signs: `guard.toml`, and `[tool.fedsim.policy]`.

`make schemas` writes them into docs/schemas; the wheel has them in fedsim/schemas.
"""

from __future__ import annotations

import json
from pathlib import Path

from fedsim.core.settings import Config
from fedsim.guard.policy import GuardPolicy
from fedsim.judgement.policy import Policy

FOLDER = Path(__file__).parent / "schemas"
TABLES: dict[str, type[Config]] = {"guard.schema.json": GuardPolicy, "policy.schema.json": Policy}
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def render(table: type[Config]) -> str:
    """Return the schema of a table as the text of a file."""
    return json.dumps({"$schema": _DIALECT, **table.model_json_schema()}, indent=2) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, table in TABLES.items():
        (FOLDER / name).write_text(render(table), encoding="utf-8")
