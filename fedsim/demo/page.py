"""The recorded page: a single HTML file that loads no other resource."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.core.errors import FedsimError
from fedsim.demo.lesson import Lesson
from fedsim.demo.messages import LANGUAGES, Language, messages
from fedsim.record.atomic_files import check_writable, write_atomic

if TYPE_CHECKING:
    from jinja2 import Environment

SCRIPTS = (
    "network.js",
    "shared.js",
    "words.js",
    "pad.js",
    "explore.js",
    "quiz.js",
    "story.js",
    "page.js",
)
_POLICY = "default-src 'none'; img-src data:; style-src {style}; script-src {script}; base-uri 'none'"
STAGES = ("data", "client", "update", "attack", "reconstruction")


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
        raise FedsimError(f"no folder {path.parent}. Create it, or choose another --out.")
    check_writable(path.parent)


def write(lesson: Lesson, path: Path, language: Language = "en") -> None:
    """Write the page completely or not at all.

    Raises:
        FedsimError: the page cannot be written.
    """
    write_atomic(path, page_of(lesson, language).encode())


def page_of(lesson: Lesson, language: Language = "en") -> str:
    """Return the page of a lesson, which begins in the given language."""
    style = text_of("style.css", "page.css", "story.css")
    script = text_of(*SCRIPTS)
    grid = lesson.sets["digits"].grid
    return render(
        "page.html.j2",
        policy=_POLICY.format(style=_hash(style), script=_hash(script)),
        style=Safe(style),
        script=Safe(script),
        language=language,
        title=messages(language)["page.title"],
        messages=Safe(texts(language)),
        recording=Safe(_json(lesson)),
        stages=STAGES,
        sets=list(lesson.sets),
        protections=grid.protections,
        attackers=grid.attackers,
    )


def texts(language: Language) -> str:
    """Return the messages of all languages as JSON that cannot end the element around it."""
    return embed_json({"language": language, "all": {code: messages(code) for code in LANGUAGES}})


def embed_json(content: Any) -> str:
    """Return JSON that cannot end the element around it."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False, ensure_ascii=False).replace("<", "\\u003c")


class Safe(str):
    """Trusted text that goes into a page unescaped."""

    def __html__(self) -> str:
        """Return the text unescaped."""
        return self


def render(template: str, **values: Any) -> str:
    """Return a template of this package filled with values, which are escaped unless they are `Safe`."""
    return _templates().get_template(template).render(values)


@cache
def _templates() -> Environment:
    """Return this package's templates; each is compiled once."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - only pages need it

    return Environment(
        loader=PackageLoader("fedsim.demo", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def text_of(*names: str) -> str:
    """Return files of this package, concatenated."""
    return "".join(files("fedsim.demo").joinpath(name).read_text(encoding="utf-8") for name in names)


def _json(lesson: Lesson) -> str:
    """Return the lesson as JSON in which no picture is repeated."""
    raw = lesson.model_dump(mode="json")
    places: dict[str, int] = {}
    for scene_set in raw["sets"].values():
        for scene in scene_set["scenes"]:
            scene["unit"] = places.setdefault(scene["unit"], len(places))
            for run in scene["runs"].values():
                run["strip"] = places.setdefault(run["strip"], len(places)) if run["strip"] else -1
    for question in raw["quiz"]:
        for name in ("guess", "truth"):
            question[name] = places.setdefault(question[name], len(places))
    return embed_json(raw | {"strips": list(places)})


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
