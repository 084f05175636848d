"""What a defense or component does to an update, as types that attacks match on.

A method states what it does in `PublicKnowledge.effects`, and only what it really does: no noise of scale 0. An attack
asks `Observation.effects` for a type. A method whose effect is of a new kind derives a frozen dataclass from `Effect`
beside itself; attacks that do not know the type pass over it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

NoiseLaw = Literal["gaussian", "laplace"]


@dataclass(frozen=True)
class Effect:
    """Something that a method does to a batch, a model, a gradient or an update. Equal fields mean the same effect."""


@dataclass(frozen=True)
class Noise(Effect):
    """Independent noise is added, so no equation holds exactly. How large it is depends on more than settings.

    Attributes:
        law: of the noise on every entry, with mean 0.
    """

    law: NoiseLaw


@dataclass(frozen=True)
class AddedNoise(Noise):
    """Noise of known size: an attacker may weigh misfits by it, or subtract what it adds to squares.

    Attributes:
        scale: standard deviation > 0, in units of the gradient or, if it `is_relative`, of each tensor's root mean
            square.
        is_relative: the unit of the scale.
        share: share in (0, 1] of the entries that get noise; which ones is not known.
    """

    scale: float
    is_relative: bool = False
    share: float = 1.0


NoiseGenerator = Literal["unpredictable", "torch", "chacha20"]
"""Generator of a client's noise: taken as unpredictable, torch's on the CPU, or ChaCha20."""


@dataclass(frozen=True)
class PrivateNoise(Noise):
    """Noise of a private mechanism: of scale multiplier * norm on what is clipped, or on the sum of clipped parts.

    Attributes:
        multiplier: standard deviation over the norm that `Clipped` or `ClippedParts` states; or None.
        epsilon: what all rounds may cost, from which the multiplier follows; or None.
        generator: of the client's noise, as the attacker knows it.
    """

    multiplier: float | None = None
    epsilon: float | None = None
    generator: NoiseGenerator = "unpredictable"


@dataclass(frozen=True)
class Clipped(Effect):
    """A whole gradient or update is scaled down to a norm. Its direction stays; a shorter one stays as it is.

    Attributes:
        norm: largest Euclidean norm over all tensors, > 0.
    """

    norm: float


@dataclass(frozen=True)
class ClippedParts(Effect):
    """Each example's or client's part is scaled down to a norm before parts are added up.

    A sum of several parts is then no gradient of a mean loss, and equations between its tensors do not hold.

    Attributes:
        norm: largest Euclidean norm of a part, > 0.
    """

    norm: float


@dataclass(frozen=True)
class Kept(Effect):
    """A share of the entries is sent and the others are zero, so a zero says nothing about the gradient.

    Attributes:
        share: share of the entries that are sent, in (0, 1).
    """

    share: float


@dataclass(frozen=True)
class Signs(Effect):
    """Only the sign of every entry is sent."""


@dataclass(frozen=True)
class Rounded(Effect):
    """Entries are rounded, so no equation holds exactly."""


@dataclass(frozen=True)
class Unreliable(Effect):
    """Some tensors are randomised or zeroed. They are set aside before an attack begins, which does without them.

    Attributes:
        names: of their parameters.
    """

    names: tuple[str, ...]


@dataclass(frozen=True)
class MixedExamples(Effect):
    """The model saw weighted sums of whole examples, with labels mixed by the same weights.

    Attributes:
        count: how many examples a mixture holds, at least 2.
        has_random_signs: whether entries of the mixtures have random signs as well.
    """

    count: int
    has_random_signs: bool = False


@dataclass(frozen=True)
class PastedBoxes(Effect):
    """A rectangle of one example was pasted into another, and labels are mixed by area. Derived types say where.

    Attributes:
        per_sample: whether each example has a rectangle of its own; else a batch has one.
    """

    per_sample: bool


@dataclass(frozen=True)
class PastedImages(PastedBoxes):
    """The model saw composites: every pixel stems from one of two images."""


@dataclass(frozen=True)
class PastedMaps(PastedBoxes):
    """The model saw whole images; behind a layer, every place of its maps stems from one of two examples.

    Attributes:
        at: name of the layer.
        size: height and width of the maps.
    """

    at: str
    size: tuple[int, int]


@dataclass(frozen=True)
class Transformed(Effect):
    """The model saw inputs that one of these functions changed; which one is not known.

    Attributes:
        functions: of inputs (B, *shape), differentiable, with outputs of the same shape.
    """

    functions: tuple[Callable[[Tensor], Tensor], ...]


@dataclass(frozen=True)
class NoiseModules(Effect):
    """Modules of the model return independent N(0, 1) noise, which may be searched like the inputs.

    Attributes:
        names: of these modules.
    """

    names: tuple[str, ...]


@dataclass(frozen=True)
class Penalties(Effect):
    """The client's loss has further terms, which a simulated client must add.

    Attributes:
        functions: by name of a module, from its output to what each example's loss gains, shape (B,).
    """

    functions: Mapping[str, Callable[[Tensor], Tensor]]
