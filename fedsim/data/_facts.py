"""Public facts about well-known image collections: normalisation constants and class names.

Constants are means and standard deviations of the training images in units of [0, 1], per channel. MNIST, CIFAR-10 and
ImageNet: Scheliga, Maeder, Seeland 2023 (arXiv 2208.06163); Fashion-MNIST, digits and spoken digits: computed from the
complete sets; CIFAR-100: the published constants.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageFacts:
    """Per-channel mean and standard deviation in units of [0, 1], and the classes in label order."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]


_DIGITS = tuple("0123456789")

MNIST = ImageFacts((0.13066,), (0.30811,), _DIGITS)
DIGITS = ImageFacts((0.30531,), (0.37589,), _DIGITS)
FASHION_MNIST = ImageFacts(
    (0.28604,),
    (0.35302,),
    ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
SPOKEN_DIGITS = ImageFacts((0.19744,), (0.25445,), _DIGITS)
CIFAR10 = ImageFacts(
    (0.49147, 0.48226, 0.44677),
    (0.24703, 0.24349, 0.26159),
    ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
)
CIFAR100 = ImageFacts(
    (0.50708, 0.48655, 0.44092), (0.26733, 0.25644, 0.27615), tuple(f"class {label}" for label in range(100))
)
IMAGENET = ImageFacts((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), tuple(f"class {label}" for label in range(1000)))
