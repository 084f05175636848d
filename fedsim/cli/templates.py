"""The file that `fedsim new` writes: a working method to change, one file and nothing else to edit."""

from __future__ import annotations

import keyword
from pathlib import Path
from string import Template
from typing import Literal

from fedsim.core.errors import FedsimError

NewKind = Literal["attack", "defense", "component"]

_FOLDERS: dict[NewKind, str] = {"attack": "attacks", "defense": "defenses", "component": "fedsim/components/augment"}

_ATTACK = '''"""$title: say in one sentence what it does, with the one equation that matters.

Paper: authors, year, arXiv id, equation. Threat model: what the server knows. What it recovers, and when it fails.
"""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field

from fedsim.core.hooks import Attack
from fedsim.core.registry import attack
from fedsim.core.types import Config, Observation, OnStep, Reconstruction


class ${camel}Config(Config):
    """Settings of $title."""

    brightness: float = Field(default=0.5, ge=0, le=1, description="pixel value of the guess")


@final
@attack("$name", summary="one line for `fedsim list`")
class $camel(Attack[${camel}Config]):
    """Guesses a grey image: replace `search` with the method."""

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Return the guess; what it lacks of a batch whose size is not known counts as missing."""
        batch_size = observation.batch_size or 1
        mean = torch.tensor(observation.spec.mean).view(-1, 1, 1)
        std = torch.tensor(observation.spec.std).view(-1, 1, 1)
        guess = ((self.config.brightness - mean) / std).expand(batch_size, *observation.spec.shape).clone()
        known = observation.labels
        return Reconstruction(
            inputs=guess,
            labels=torch.zeros(batch_size, dtype=torch.long) if known is None else known[:batch_size],
            masks=None,
            objective=float("nan"),
            iterations=0,
            best_iteration=0,
            history=(),
            stopped="closed form",
        )
'''

_DEFENSE = '''"""$title: say in one sentence what it does, with the one equation that matters.

Paper: authors, year, arXiv id, equation. Guarantee: none, or (epsilon, delta) and under which assumptions. Broken by:
the attack that an attacker uses who knows this defense.
"""

from __future__ import annotations

from typing import ClassVar, final

from pydantic import Field

from fedsim.core.hooks import Defense, Here, Place
from fedsim.core.registry import defense
from fedsim.core.types import Config, PublicKnowledge, Tensors


class ${camel}Config(Config):
    """Settings of $title."""

    factor: float = Field(default=1.0, gt=0, description="what every gradient entry is multiplied with")


@final
@defense("$name", summary="one line for `fedsim list`")
class $camel(Defense[${camel}Config]):
    """Scales the gradient: replace `on_gradient` with the method, or override another moment of a defense."""

    place: ClassVar[Place] = "clip"

    def on_gradient(self, gradient: Tensors, here: Here) -> Tensors:
        """Return the gradient that the optimizer gets."""
        return {name: self.config.factor * g for name, g in gradient.items()}

    def adaptive_view(self) -> PublicKnowledge:
        """Return what an attacker knows who knows this defense."""
        return PublicKnowledge("$name", {"factor": self.config.factor})
'''

_COMPONENT = '''"""$title: say in one sentence what it does, with the one equation that matters.

Paper: authors, year, arXiv id, equation. What it may leak: the privacy question of this method.
"""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from pydantic import Field
from torch import nn

from fedsim.core.hooks import Augmentation, Here, Rules
from fedsim.core.registry import component
from fedsim.core.types import Batch, Config, PublicKnowledge

_IMAGE = 3


class ${camel}Config(Config):
    """Settings of $title."""

    probability: float = Field(default=0.5, ge=0, le=1, description="chance that an image is mirrored")


@final
@component("$name", hook="augment", summary="one line for `fedsim list`")
class $camel(Augmentation[${camel}Config]):
    """Mirrors images: replace `augment` with the method."""

    def augment(self, batch: Batch, here: Here) -> Batch:
        """Return a batch of the same shape, and write down what was drawn."""
        is_mirrored = torch.rand(len(batch), generator=here.generator) < self.config.probability
        here.draws["$name.mirrored"] = is_mirrored
        mirrored = torch.where(is_mirrored.view(-1, 1, 1, 1), batch.inputs.flip(-1), batch.inputs)
        return replace(batch, inputs=mirrored)

    def refuses(self, rules: Rules, model: nn.Module) -> str | None:
        """Refuse inputs that are no images."""
        return None if len(rules.shape) == _IMAGE else f"it mirrors images, but an example has shape {rules.shape}"

    def public_view(self) -> PublicKnowledge:
        """Return what an attacker knows who knows the components."""
        return PublicKnowledge("$name", self.config.model_dump())
'''

_TEMPLATES: dict[NewKind, str] = {"attack": _ATTACK, "defense": _DEFENSE, "component": _COMPONENT}


def write_new(kind: NewKind, name: str, root: Path) -> Path:
    """Write the file of a new method below `root`, the checkout, and return its path.

    Raises:
        FedsimError: the name is not made of lower-case words with hyphens, `root` is no checkout, or the file exists.
    """
    words = name.split("-")
    if not all(word.isidentifier() and word.islower() for word in words) or keyword.iskeyword("_".join(words)):
        raise FedsimError(
            f"'{name}' is not a name for a method: use lower-case words joined by hyphens, like my-{kind}."
        )
    if not (root / "fedsim").is_dir():
        raise FedsimError(f"{root} is not a checkout of fedsim: run this where the folders fedsim and attacks lie.")
    folder = root / _FOLDERS[kind]
    path = folder / f"{'_'.join(words)}.py"
    if path.exists():
        raise FedsimError(f"{path} exists already. Choose another name.")
    folder.mkdir(parents=True, exist_ok=True)
    package = folder / "__init__.py"
    if not package.exists():
        package.write_text(f'"""Hook {folder.name}."""\n', encoding="utf-8")
    camel = "".join(word.capitalize() for word in words)
    title = name.replace("-", " ").capitalize()
    path.write_text(Template(_TEMPLATES[kind]).substitute(name=name, camel=camel, title=title), encoding="utf-8")
    return path
