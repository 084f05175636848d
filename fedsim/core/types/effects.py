"""Effects of defenses and components on an update, as types that attacks match on.

A method declares its effects in `MethodDescription.effects`, and only actual effects: no noise of scale 0. An attack
queries `Observation.effects` by type. A method with a new kind of effect derives a frozen dataclass from `Effect` in
its own file; attacks ignore unknown types.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

NoiseLaw = Literal["gaussian", "laplace"]


@dataclass(frozen=True)
class Effect:
    """An effect of a method on a batch, a model, a gradient or an update. Equal fields mean equal effects."""


@dataclass(frozen=True)
class Noise(Effect):
    """Independent additive noise, so no equation holds exactly. Its scale does not follow from the settings alone.

    Attributes:
        law: distribution of the noise on each entry, with mean 0.
    """

    law: NoiseLaw


@dataclass(frozen=True)
class AddedNoise(Noise):
    """Noise of known scale: an attacker may weight residuals by it, or subtract its expected square.

    Attributes:
        scale: standard deviation > 0, in units of the gradient or, if `is_relative`, of each tensor's root mean square.
        is_relative: unit of the scale.
        share: share in (0, 1] of the entries with noise, at unknown positions.
    """

    scale: float
    is_relative: bool = False
    share: float = 1.0


NoiseGenerator = Literal["unpredictable", "torch", "numpy", "chacha20"]
"""Generator of a client's noise: assumed unpredictable, torch's on the CPU, NumPy's legacy generator, or ChaCha20."""


@dataclass(frozen=True)
class PrivateNoise(Noise):
    """Noise of a private mechanism: of scale multiplier * norm on the clipped update, or on the sum of clipped parts.

    Attributes:
        multiplier: standard deviation over the norm of `Clipped` or `ClippedParts`; or None.
        epsilon: privacy budget of all rounds, which determines the multiplier; or None.
        generator: generator of the client's noise, as far as the attacker knows it.
        deviation: standard deviation > 0 on each entry of a single client's update; None if it differs by entry, or
            does not follow from the settings and the federation.
    """

    multiplier: float | None = None
    epsilon: float | None = None
    generator: NoiseGenerator = "unpredictable"
    deviation: float | None = None


@dataclass(frozen=True)
class Clipped(Effect):
    """Clipping of a whole gradient or update to a norm. Its direction stays; shorter ones do not change.

    Attributes:
        norm: clipping norm (Euclidean, over all tensors), > 0.
    """

    norm: float


@dataclass(frozen=True)
class ClippedParts(Effect):
    """Clipping of each example's or client's part to a norm before summation.

    A sum of several parts is then no gradient of a mean loss, and equations between its tensors do not hold.

    Attributes:
        norm: clipping norm of a part (Euclidean), > 0.
    """

    norm: float


@dataclass(frozen=True)
class Sparsified(Effect):
    """Sparsification: a share of the entries is sent, the others are zero; a zero does not imply a zero gradient.

    Attributes:
        share: share of the sent entries, in (0, 1).
    """

    share: float


@dataclass(frozen=True)
class SignsOnly(Effect):
    """Only the sign of each entry is sent."""


@dataclass(frozen=True)
class Rounded(Effect):
    """Entries are rounded, so no equation holds exactly."""


@dataclass(frozen=True)
class UnreliableTensors(Effect):
    """Some tensors are randomised or zeroed; attacks do not match them.

    Attributes:
        names: names of these parameters.
    """

    names: tuple[str, ...]


@dataclass(frozen=True)
class MixedExamples(Effect):
    """The model got weighted sums of whole examples, with labels mixed by the same weights.

    Attributes:
        count: number of examples per mixture, at least 2.
        has_random_signs: whether entries of the mixtures have random signs as well.
    """

    count: int
    has_random_signs: bool = False


@dataclass(frozen=True)
class PastedBoxes(Effect):
    """A rectangle of one example was pasted into another; labels are mixed by area. Derived types name the location.

    Attributes:
        per_sample: whether each example has its own rectangle; otherwise the batch shares it.
    """

    per_sample: bool


@dataclass(frozen=True)
class PastedImages(PastedBoxes):
    """The model got composites: each pixel is from either of two images."""


@dataclass(frozen=True)
class PastedMaps(PastedBoxes):
    """The model got whole images; after a layer, each position of its maps is from either of two examples.

    Attributes:
        at: name of the layer.
        size: height and width of the maps.
    """

    at: str
    size: tuple[int, int]


@dataclass(frozen=True)
class Transformed(Effect):
    """The model got inputs transformed by one of these functions; which one is unknown.

    Attributes:
        functions: differentiable functions of inputs (B, *shape), with outputs of the same shape.
    """

    functions: tuple[Callable[[Tensor], Tensor], ...]


@dataclass(frozen=True)
class NoiseModules(Effect):
    """Modules of the model return independent N(0, 1) noise, which can be optimised like the inputs.

    Attributes:
        names: names of these modules.
    """

    names: tuple[str, ...]


@dataclass(frozen=True)
class Penalties(Effect):
    """Additional terms of the client's loss, which a simulated client must add.

    Attributes:
        functions: by module name, maps its output to an additional loss per example, shape (B,).
    """

    functions: Mapping[str, Callable[[Tensor], Tensor]]
