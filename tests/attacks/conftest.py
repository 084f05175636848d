"""Observations of small networks built in the test itself, in float64 and with masks that are really drawn."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedsim.core import registry, seeding
from fedsim.core.hooks import Attack
from fedsim.core.nets.masks import record_masks
from fedsim.core.types import Batch, InputSpec, Observation, Reconstruction, Truth, Update
from fedsim.metrics.image import score_items
from fedsim.metrics.missing import complete
from tests.attacks.solving import observed, sending

KNOWN = ("batch-size", "dropout-rates", "input-statistics", "labels")
PLAIN = {"name": "mlp", "width": 64, "depth": 2, "dropout": 0.0}


@pytest.fixture(scope="session")
def attack_named() -> Callable[..., Attack]:
    def build(name: str, **settings: object) -> Attack:
        method = registry.get("attack", name)
        return method.make(method.config.model_validate(settings))

    return build


@pytest.fixture(scope="session")
def toy() -> Callable[..., tuple[Observation, Truth]]:
    """Observe one exact gradient of a model on random inputs."""

    def build(
        model: nn.Module,
        shape: tuple[int, ...],
        batch_size: int,
        *,
        classes: int = 4,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> tuple[Observation, Truth]:
        generator = torch.Generator().manual_seed(seed)
        model = model.to(dtype).train()
        batch = Batch(
            torch.randn((batch_size, *shape), generator=generator, dtype=torch.float64).to(dtype),
            torch.randint(classes, (batch_size,), generator=generator),
        )
        with record_masks(model, generator) as drawn:
            loss = F.cross_entropy(model(batch.inputs), batch.labels)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True, materialize_grads=True)
        tensors = dict(zip(trained, gradients, strict=True))
        spec = InputSpec(shape, classes, (0.5,) * shape[0], (0.2,) * shape[0])
        update = Update("gradient", tensors, {}, batch_size, float(loss.detach()))
        observation = observed(
            model, spec, tensors, batch_size, loss=F.cross_entropy, update=update, sites=tuple(drawn.sites),
            labels=batch.labels.clone(),
        )  # fmt: skip
        return observation, Truth((batch,), (tuple(drawn.masks),), observation.update, (batch,))

    return build


@pytest.fixture(scope="session")
def left_alone() -> Callable[[Observation], AbstractContextManager[None]]:
    """Check afterwards that weights and update of an observation are as they were, and that nothing was accumulated."""

    @contextmanager
    def watch(observation: Observation) -> Iterator[None]:
        weights = {key: value.clone() for key, value in observation.model.state_dict().items()}
        sent = {key: value.clone() for key, value in observation.update.tensors.items()}
        yield
        assert all(torch.equal(value, weights[key]) for key, value in observation.model.state_dict().items())
        assert all(torch.equal(value, sent[key]) for key, value in observation.update.tensors.items())
        assert all(parameter.grad is None for parameter in observation.model.parameters())

    return watch


@pytest.fixture(scope="session")
def psnr_of() -> Callable[..., list[float]]:
    def score(guess: Reconstruction, truth: Truth, spec: InputSpec) -> list[float]:
        whole = complete(guess, len(truth.batches[0]))
        return [item.values["psnr"] for item in score_items(whole, truth.batches[0], spec).items]

    return score


@pytest.fixture(scope="session")
def without_information() -> Callable[[Observation], Observation]:
    """Replace the gradient by noise of the same shapes: an attack that still finds the image has seen it elsewhere."""

    def blind(observation: Observation) -> Observation:
        generator = torch.Generator().manual_seed(1)
        tensors = {
            name: torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
            for name, tensor in observation.update.tensors.items()
        }
        return sending(observation, tensors)

    return blind


@pytest.fixture
def written_text(tmp_path: Path) -> dict[str, Any]:
    """Tables of a scenario on sentences of thirteen words, with a tiny Llama; no sentence is as long as it may be."""
    words = ["rain", "falls", "on", "seven", "green", "hills", "and", "nobody", "counts", "them", "when", "it", "ends"]
    documents = [" ".join(words[(5 * d + k * (d % 4 + 1)) % 13] for k in range(7)) + "." for d in range(20)]
    (tmp_path / "text.txt").write_text("\n\n".join(documents))
    return {
        "data": {"name": "text-file", "path": str(tmp_path / "text.txt"), "length": 10, "words": 30},
        "model": {"name": "tiny-llama", "width": 64, "hidden": 64},
    }


@pytest.fixture
def masked_client(watched: Callable[..., Any], written_text: dict[str, Any]) -> tuple[Observation, Truth]:
    """A client's gradient of a model that fills in masked places, on two sentences."""
    model = {"name": "tiny-llada", "width": 64, "hidden": 64, "blocks": 2}
    tables = {"data": written_text["data"], "model": model, "task": "masked-diffusion"}
    observation, truth, _ = watched(**tables, federation={"batch_size": 2}, knows=("batch-size",))
    return observation, truth


@pytest.fixture
def attacked(
    watched: Callable[..., Any], attack_named: Callable[..., Attack]
) -> Callable[..., tuple[float, Reconstruction]]:
    """Attack one client, and return the mean PSNR of what was found."""

    def build(
        attack: str,
        defense: str | None,
        *,
        model: dict[str, Any] = PLAIN,
        batch: int = 1,
        client: int = 0,
        **settings: Any,
    ) -> tuple[float, Reconstruction]:
        defenses = [] if defense is None else [{"name": defense}]
        knows = KNOWN if attack == "inverting-gradients" else (*KNOWN, "defenses")
        observation, truth, world = watched(
            knows=knows, client=client, model=model, defenses=defenses, federation={"batch_size": batch}
        )
        with seeding.isolate_randomness(1):  # an attacker who ignores noise inside the model draws it where torch does
            own = {"max_iterations": 400, "sign": "soft", "schedule": "cosine", **settings}
            found = attack_named(attack, **own)(observation, seeding.generator(5, "attack"))
        items = score_items(found, truth.original_batches[0], world.data.dataset.spec).items
        return sum(item.values["psnr"] for item in items) / len(items), found

    return build
