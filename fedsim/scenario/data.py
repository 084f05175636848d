"""Data of a scenario: the clients' shares and batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.choices import Choice
from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.core.hooks import IMAGES
from fedsim.core.types import Batch, Dataset
from fedsim.data.label_noise import noisy_labels
from fedsim.data.partition import partition
from fedsim.scenario.clients import Federation
from fedsim.scenario.tables import Scenario
from fedsim.scenario.tasks import task_of


@dataclass(frozen=True)
class Data:
    """Data partition and batches.

    Attributes:
        dataset: all examples.
        shares: indices of the training examples of each client; the examples of a row (N, K) are drawn together.
        federation: settings of local training.
        seed: the scenario's seed.
    """

    dataset: Dataset
    shares: Sequence[Tensor]
    federation: Federation
    seed: int

    @property
    def sizes(self) -> list[int]:
        """Number of examples of each client; for shares drawn on demand only the first, because all are equal."""
        return [len(share) for share in self.shares] if isinstance(self.shares, tuple) else [len(self.shares[0])]

    @property
    def public(self) -> Tensor:
        """Inputs of the server's own examples: the test set, or empty if the test set is the training set."""
        train, test = self.dataset.train.inputs, self.dataset.test.inputs
        return test[:0] if torch.equal(train, test) else test

    def steps(self, client: int) -> int:
        """Return a client's number of local steps per round."""
        settings = self.federation
        if settings.local_epochs is None:
            return settings.local_steps
        return settings.local_epochs * math.ceil(self.shares[client].shape[0] / settings.batch_size)

    def batches(self, round_: int, client: int) -> Iterator[Batch]:
        """Yield the batch of every local step."""
        train = self.dataset.train
        for chosen in self.numbers_of(round_, client):
            yield train.select(chosen)

    def numbers_of(self, round_: int, client: int) -> Iterator[Tensor]:
        """Yield the indices of the training examples of every local step."""
        return self.choices(client, seeding.generator(self.seed, "batches", round_, client))

    def choices(self, client: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield the indices of the training examples of every local step: random passes over the client's share.

        With `local_steps` the incomplete last batch of a pass is dropped, with `local_epochs` it is a batch. Under
        Poisson sampling each example is in each step's batch independently. If examples are drawn together, a batch
        contains all first examples of the rows, then all second examples.
        """
        for chosen in self._draws(client, generator):
            yield chosen.movedim(-1, 0).flatten()

    def _draws(self, client: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield entries or rows of a client's share for every local step."""
        settings, share = self.federation, self.shares[client]
        if settings.sampling == "poisson":
            rate = min(1.0, settings.batch_size / share.shape[0])
            for _ in range(self.steps(client)):
                chances = torch.rand(share.shape[0], generator=generator, dtype=torch.float64)
                yield share[chances < rate]
            return
        if settings.local_epochs is not None:
            for _ in range(settings.local_epochs):
                order = share.index_select(0, torch.randperm(share.shape[0], generator=generator))
                yield from (order,) if order.shape[0] <= settings.batch_size else order.split(settings.batch_size)
            return
        order = torch.empty(0, dtype=torch.long)
        for _ in range(settings.local_steps):
            if order.shape[0] < settings.batch_size:
                order = torch.randperm(share.shape[0], generator=generator)
            chosen, order = order[: settings.batch_size], order[settings.batch_size :]
            yield share[chosen]


def build_data(scenario: Scenario) -> Data:
    """Build the data of a scenario.

    Raises:
        FedsimError: the data set is missing or malformed, the partition is impossible, or a client would own fewer
            examples than a batch.
    """
    dataset = load_dataset(scenario.data)
    noisy = _with_noise(scenario, dataset)
    data = Data(noisy, _shares(scenario, dataset), scenario.federation, scenario.seed)
    if scenario.federation.local_epochs is None:
        _check_batch(data)
    return data


EXAMPLE = """\
import torch
from fedsim.core.types import Batch, Dataset, InputSpec


def my_data() -> Dataset:
    images, labels = torch.rand(200, 3, 16, 16), torch.arange(200) % 10  # yours: pixels in [0, 1], classes from 0
    mean, std = images.mean((0, 2, 3)), images.std((0, 2, 3))
    images = (images - mean[:, None, None]) / std[:, None, None]
    train, test = Batch(images[:160], labels[:160]), Batch(images[160:], labels[160:])
    spec = InputSpec(shape=(3, 16, 16), classes=10, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    return Dataset(train, test, spec, class_names=tuple(map(str, range(10))))
"""


def load_dataset(choice: Choice) -> Dataset:
    """Load a data set; the last two are cached.

    Raises:
        FedsimError: it is missing or malformed.
    """
    return _dataset(choice.model_dump_json())


@lru_cache(maxsize=2)
def _dataset(choice_json: str) -> Dataset:
    choice = Choice.model_validate_json(choice_json)
    dataset = choice.make("dataset")
    if not isinstance(dataset, Dataset):
        raise FedsimError(
            f"data '{choice.name}' returned {type(dataset).__name__}, expected fedsim.core.types.Dataset. An example:\n"
            f"{EXAMPLE}"
        )
    return dataset


def _with_noise(scenario: Scenario, dataset: Dataset) -> Dataset:
    settings, train = scenario.label_noise, dataset.train
    if settings is None:
        return dataset
    task = task_of(scenario, dataset)
    if task.does_not_suit(IMAGES):
        raise ScenarioError(
            f"label_noise: it changes the class of an image, and the examples are {task.modality}. Leave it out."
        )
    generator = seeding.generator(scenario.seed, "label noise")
    labels = noisy_labels(train.labels, dataset.class_names, settings.scheme, settings.rate, generator)
    return replace(dataset, train=replace(train, labels=labels))


def _shares(scenario: Scenario, dataset: Dataset) -> Sequence[Tensor]:
    settings = scenario.partition
    return partition(
        dataset.train.labels,
        scenario.federation.clients,
        seeding.generator(scenario.seed, "partition"),
        scheme=settings.scheme,
        alpha=settings.alpha,
        classes_per_client=settings.classes_per_client,
        examples_per_client=settings.examples_per_client,
        users=dataset.users,
    )


def _check_batch(data: Data) -> None:
    sizes, batch_size = data.sizes, data.federation.batch_size
    smallest = min(range(len(sizes)), key=sizes.__getitem__)
    if sizes[smallest] < batch_size:
        raise ScenarioError(
            f"federation.batch_size is {batch_size}, but client {smallest} owns {sizes[smallest]} examples. "
            "Expected at most that, or fewer clients, a more even partition, or local_epochs instead of local_steps."
        )
