"""ats: transforms each batch by image policies chosen to mislead inversion (automatic transformation search).

Transforms: rotate, shear, translate, contrast, brightness, sharpness, posterize, solarize, invert, in units of each
image's own range; geometric transforms fill with 0. Without `policies` a search ranks `candidates` random policies on
`images` test images of the data set `public`, with a copy of the model after `warm_up` SGD steps: of the share
`accurate` with the best accuracy scores, the `kept_policies` policies of lowest privacy score are used. It runs once
per process, model and seed. The paper's threshold of -85 depends on the number of images. Policies with jumps
(posterize, solarize) have no useful derivative. `transform-inversion` searches through every known policy, and `auto`
with knowledge of the defense inverts the policies on its exact image of T(x); pixels that T pushed out of the image
stay lost.

Idea: The gradient of transformed images leads a search to other images. A policy is a sequence of one to three of fifty
    transforms; each batch samples a policy. The search keeps policies of low privacy score among those of high
    accuracy score.
Equation: privacy: area over a in [0, 1] of the mean over tensors of cos(g((1 - a) noise + a T(x)), g(T(x)));
    accuracy: -sum(log(v + e) + 1 / (v + e)), v eigenvalues of the correlation of the Jacobian's rows, e = 1e-5.
Assumes: images, and a server that does not know the policies. The search needs public images that fit the model.
Protects: the original image, as far as T(x) does not show it. The gradient of T(x) is sent exactly. No guarantee.
Fails: against an attacker that knows the policies and applies them in its simulated client.
Source: Gao et al. 2021, arXiv 2011.12505. The paper's fixed accuracy threshold is a share of the candidates here.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from typing import Annotated, Any, ClassVar, cast, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from defenses.batch._transforms import LIBRARY, TransformPolicy, policy_of
from fedsim.core import registry
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Defense, HookContext, Place
from fedsim.core.nets.losses import cross_entropy
from fedsim.core.registry import defense
from fedsim.core.types import Batch, Config, Dataset, MethodDescription
from fedsim.core.types.effects import Transformed

_BLENDS = 20
_EPSILON = 1e-5
_LONGEST = 3
_STEP = 0.1
_Number = Annotated[int, Field(ge=0, lt=len(LIBRARY))]
_Numbers = Annotated[tuple[_Number, ...], Field(min_length=1, max_length=_LONGEST)]
_policy_cache: dict[tuple[str, int, str], tuple[TransformPolicy, ...]] = {}


class AtsConfig(Config):
    """Settings of ATS."""

    policies: tuple[_Numbers, ...] = Field(
        default=((23, 5, 31), (2, 18, 33), (9, 27, 12)),
        description="policies to draw from, as indices (from 0) into the library of 50; empty: search for them",
    )
    candidates: int = Field(default=30, ge=1, description="search: random policies to score")
    kept_policies: int = Field(default=3, ge=1, description="search: policies that are kept, to draw from")
    accurate: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="search: share of the candidates, by accuracy score, that may be kept",
    )
    public: str = Field(default="digits", description="search: data set with public test images")
    images: int = Field(default=8, ge=2, description="search: public images to score on")
    warm_up: int = Field(default=30, ge=0, description="search: SGD steps on public images that half-train the model")


@final
@defense(
    "ats",
    summary="image transforms chosen to mislead inversion",
    tier="baseline",
    paper="2011.12505",
    fidelity="variant",
    deviates="the fixed accuracy threshold is a share of the candidates",
    paper_steps=(
        ("fifty transforms, policies of up to three", "defenses.batch._transforms.TransformPolicy"),
        ("privacy score: area under the cosines", "privacy_score"),
        ("accuracy score: eigenvalues of the Jacobian's correlations", "accuracy_score"),
        ("search over random policies with a half-trained model", "_search"),
        ("a random policy per batch", "Ats.on_batch"),
        ("threshold of -85 on the accuracy score", ""),
    ),
)
class Ats(Defense[AtsConfig]):
    """Samples one policy per batch."""

    place: ClassVar[Place] = "batch"

    def __init__(self, config: AtsConfig) -> None:
        """Build the policies of the settings, if given."""
        super().__init__(config)
        self._policies = tuple(policy_of(numbers) for numbers in config.policies)

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Search for policies if none are given, once per process, model and seed; return the model unchanged.

        Raises:
            NotApplicable: the public images do not fit the model.
        """
        if not self.config.policies:
            key = self.config.model_dump_json(), generator.initial_seed(), str(model)
            if key not in _policy_cache:
                _policy_cache[key] = _search(self.config, copy.deepcopy(model), generator)
            self._policies = _policy_cache[key]
        return model

    def on_batch(self, batch: Batch, context: HookContext) -> Batch:
        """Return the batch, transformed by a random policy."""
        chosen = int(torch.randint(len(self._policies), (1,), generator=context.generator))
        return replace(batch, inputs=self._policies[chosen](batch.inputs))

    def adaptive_view(self) -> MethodDescription:
        """Return the policies, as functions and as text."""
        return MethodDescription("ats", (Transformed(self._policies),), {"policies": tuple(map(str, self._policies))})


def privacy_score(model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> float:
    """Return the area under the curve of cosines, mean over images, at most 1; a lower score hides more.

    Args:
        model: half-trained model.
        images: transformed images (B, C, H, W).
        labels: classes (B,).
        generator: samples the blended noise.
    """
    scores = [_area(model, image[None], label[None], generator) for image, label in zip(images, labels, strict=True)]
    return sum(scores) / len(scores)


def accuracy_score(model: nn.Module, images: Tensor) -> float:
    """Return -sum(log(v + e) + 1 / (v + e)) over the Jacobian's correlation eigenvalues; higher is better.

    A row of the Jacobian is the gradient of the summed outputs at one image. Uncorrelated rows give about -B.
    """
    leaves = images.detach().clone().requires_grad_()
    (jacobian,) = torch.autograd.grad(model(leaves).sum(), leaves)
    values = torch.linalg.eigvalsh(torch.corrcoef(jacobian.flatten(1).double()).nan_to_num())
    shifted = values.clamp_min(0.0) + _EPSILON
    return -float((shifted.log() + 1.0 / shifted).sum())


def _area(model: nn.Module, image: Tensor, label: Tensor, generator: torch.Generator) -> float:
    wanted = _gradient(model, image, label)
    noise = torch.randn(image.shape, generator=generator, dtype=image.dtype)
    cosines = torch.tensor([
        float(_cosine(_gradient(model, torch.lerp(noise, image, step / _BLENDS), label), wanted))
        for step in range(_BLENDS + 1)
    ])  # fmt: skip
    return float(torch.trapezoid(cosines, dx=1.0 / _BLENDS))


def _gradient(model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    loss = cross_entropy(model(inputs), labels)
    return torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)


def _cosine(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> Tensor:
    pairs = zip(ours, theirs, strict=True)
    return torch.stack([F.cosine_similarity(a.flatten(), b.flatten(), dim=0) for a, b in pairs]).mean()


def _search(config: AtsConfig, model: nn.Module, generator: torch.Generator) -> tuple[TransformPolicy, ...]:
    """Return the best policies for a model; the search trains that model for a few steps."""
    method = registry.get("dataset", config.public)
    public = cast("Dataset", cast("Any", method.make)(method.config())).test
    try:
        _half_train(model, public, config.warm_up, generator)
    except RuntimeError as error:
        raise NotApplicable(f"the public images of '{config.public}' do not fit the model ({error})") from error
    model.eval()
    images, labels = public.inputs[: config.images], public.labels[: config.images]
    policies = [_draw(generator) for _ in range(config.candidates)]
    accuracies = torch.tensor([accuracy_score(model, policy(images)) for policy in policies])
    accurate = accuracies.argsort(descending=True)[: max(1, round(config.accurate * len(policies)))].tolist()
    scores = {index: privacy_score(model, policies[index](images), labels, generator) for index in accurate}
    return tuple(policies[index] for index in sorted(scores, key=scores.__getitem__)[: config.kept_policies])


def _draw(generator: torch.Generator) -> TransformPolicy:
    length = 1 + int(torch.randint(_LONGEST, (1,), generator=generator))
    return policy_of(tuple(torch.randint(len(LIBRARY), (length,), generator=generator).tolist()))


def _half_train(model: nn.Module, public: Batch, steps: int, generator: torch.Generator) -> None:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for _ in itertools.repeat(None, steps):
        chosen = torch.randint(len(public), (32,), generator=generator)
        gradient = _gradient(model, public.inputs[chosen], public.labels[chosen])
        with torch.no_grad():
            for parameter, slope in zip(trained, gradient, strict=True):
                parameter.sub_(slope, alpha=_STEP)
