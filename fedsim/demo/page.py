"""The recorded page: one HTML file that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from fedsim.core.errors import FedsimError
from fedsim.core.glossary import TERMS
from fedsim.demo.recording import Recording
from fedsim.record.store import check_writable, write_whole

STAGES = (
    ("data", "Data"),
    ("client", "Client"),
    ("update", "Update"),
    ("attack", "Attack"),
    ("reconstruction", "Reconstruction"),
)
PROTECTIONS = {"none": "none", "noise": "clip + noise", "pruning": "prune 90%", "precode": "bottleneck (PRECODE)"}
ATTACKERS = {
    "ignores": "ignores the masks (IG)",
    "estimates": "estimates the masks (DIA)",
    "knows": "knows the masks (WIIG)",
    "exact": "solves equations (exact)",
}


def check_place(path: Path) -> None:
    """Check that the page can be written, before minutes of work.

    Raises:
        FedsimError: the folder does not exist or cannot be written to, or the path is a folder.
    """
    if path.is_dir():
        raise FedsimError(
            f"{path} is a folder, expected the name of a file. Use for example --out {path / 'demo.html'}"
        )
    if not path.parent.is_dir():
        raise FedsimError(f"there is no folder {path.parent}. Create it, or choose another --out.")
    check_writable(path.parent)


def write(recording: Recording, path: Path) -> None:
    """Write the page completely or not at all.

    Raises:
        FedsimError: the page cannot be written.
    """
    write_whole(path, page_of(recording).encode())


def page_of(recording: Recording) -> str:
    """Return the page of a recording."""
    style, script = text_of("style.css", "page.css"), text_of("shared.js", "page.js")
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'"
    return render(
        "page.html.j2",
        policy=policy,
        style=Safe(style),
        script=Safe(script),
        recording=Safe(_json(recording)),
        stages=STAGES,
        protections=[(key, PROTECTIONS[key]) for key in recording.grid.protections],
        attackers=[(key, ATTACKERS[key]) for key in recording.grid.attackers],
        threat=recording.threat,
        glossary=TERMS,
    )


class Safe(str):
    """Trusted text that goes into a page unescaped."""

    def __html__(self) -> str:
        """Return the text unescaped."""
        return self


def render(template: str, **values: Any) -> str:
    """Return a template of this package filled with values, which are escaped unless they are `Safe`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - only pages need it

    environment = Environment(
        loader=PackageLoader("fedsim.demo", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)


def text_of(*names: str) -> str:
    """Return files of this package, concatenated."""
    return "".join(files("fedsim.demo").joinpath(name).read_text(encoding="utf-8") for name in names)


def _json(recording: Recording) -> str:
    """Return the recording with every picture once, escaped so that it cannot end the element around it."""
    raw = recording.model_dump(mode="json")
    places: dict[str, int] = {}
    for scene in raw["scenes"]:
        scene["unit"] = places.setdefault(scene["unit"], len(places))
        for run in scene["runs"].values():
            run["strip"] = places.setdefault(run["strip"], len(places)) if run["strip"] else -1
    raw["strips"] = list(places)
    return json.dumps(raw, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
