"""Adapter of a Flower app: its folder, or the archive of `flwr build`. A round of the app runs in this process."""

from __future__ import annotations

import importlib
import math
import stat
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, NamedTuple, cast, final

from torch import Tensor, nn

from fedsim.audit.adapters import (
    SubjectAdapter,
    adapter,
    adapter_of,
    is_instance_by_name,
    make_subject,
    optimizer_called,
    tensors_are,
    unwrap_model,
)
from fedsim.audit.adapters._watching import WatchedClient
from fedsim.audit.subject import ClientReply, NoisyMessage, Subject
from fedsim.core.errors import FedsimError, first_line
from fedsim.core.types import Batch

_OF_OPACUS = "_module."  # name prefix in a wrapped model
_MOST_DELTA = 1.25  # in Flower's formula of the deviation, S sqrt(2 ln(1.25 / delta)) / epsilon
_ARCHIVE, _PROJECT = ".fab", "pyproject.toml"
_FUNCTION = "Audit a function that returns (model, loss, loader) instead, with --client-app where a ClientApp has it."
_MOST_BYTES = 100 << 20  # unpacked size; Flower allows 10 MiB packed
_MODE = 16  # bits to shift for the file mode in a zip entry


class _Apps(NamedTuple):
    """Both apps, the client's mods by name, and the run configuration."""

    client: Any
    server: Any
    mods: tuple[str, ...]
    config: dict[str, Any]


@final
@adapter
class FlowerApp(SubjectAdapter):
    """The first client's reply to the first message of the app's own server, including the app's mods."""

    input_description: ClassVar[str] = "the folder or .fab file of a Flower app"

    @classmethod
    def matches(cls, client: Any) -> bool:
        """Return whether the object is a folder, an archive, or an app without its folder."""
        return (
            isinstance(client, Path)
            or is_instance_by_name(client, "ClientApp", "flwr")
            or is_instance_by_name(client, "ServerApp", "flwr")
        )

    def subject(self) -> Subject:
        """Run the round, and return the trained model with its batches and update."""
        if not isinstance(self.client, Path):
            raise FedsimError(
                f"'{self.name}' is only a {type(self.client).__name__}, without a server's "
                "weights. Name the folder of its app, or pass --client-app together with a "
                "function that returns (model, loss, loader)."
            )
        with _folder_of(self.client) as folder, _prepend_import_path(folder):
            from fedsim.audit.adapters._round import first_round  # noqa: PLC0415 - Flower is slow to import

            self._apps = _load(folder, self.name)
            first, *later_rounds = first_round(self._apps.client, self._apps.server, self._apps.config, self.name)
        self._client = first.training
        model, batches = self._check_training(first.training, first.examples)
        names = self._names_in(model)
        received, sent = (_name_arrays(arrays, model, names) for arrays in (first.received_arrays, first.sent_arrays))
        self._moved = self._update(model, received, sent)
        known = model.state_dict()
        model.load_state_dict({**known, **{name: tensor for name, tensor in received.items() if name in known}})
        later_batches = [
            (step.inputs, step.labels) for later_round in later_rounds for step in later_round.training.steps
        ]
        return Subject(
            model,
            self._client.losses[0],
            [(step.inputs, step.labels) for step in batches],
            test=later_batches or None,
            optimizer=optimizer_called(self._client.optimizer),
            learning_rate=self._client.learning_rate,
            local_steps=len(batches),
            reply=ClientReply(self._moved, batches, self._apps.mods),
            notes=_secure_mods(self._apps.client),
            noise=_noise_of(self._apps.client, first.received_arrays, first.sent_arrays),
        )

    def input_summary(self) -> str:
        """Describe the sent update and its training."""
        steps, client = self._client.steps, self._client
        sizes = sorted({len(step) for step in steps})
        steps_text = f"{len(steps)} step{'s' if len(steps) > 1 else ''} of {' or '.join(map(str, sizes))}"
        steps_text = f"{steps_text} example{'s' if sizes != [1] else ''}"
        mods = f"mods {', '.join(self._apps.mods)}" if self._apps.mods else "no mods"
        loss = cast("Any", client.losses[0]).func.__name__
        return (
            f"Flower app, {tensors_are(len(self._moved))} sent by its ClientApp ({mods}) after {steps_text}, "
            f"{client.optimizer} at {client.learning_rate:g}, loss {loss}"
        )

    def _check_training(self, client: WatchedClient, examples: int | None) -> tuple[nn.Module, tuple[Batch, ...]]:
        why = client.not_seen
        if client.model is None:
            why = why or "it trains no torch model in this process"
        if not client.steps:
            why = why or "it trains without an optimizer of torch"
        if why or client.model is None:
            raise FedsimError(f"the ClientApp of '{self.name}' cannot be watched: {why}. {_FUNCTION}")
        seen = sum(map(len, client.steps))
        if examples and _is_missed(examples, client.steps):
            raise FedsimError(
                f"the ClientApp of '{self.name}' says that it trained on {examples} examples, but {seen} were seen. "
                f"{_FUNCTION}"
            )
        model = (
            unwrap_model(client.model)
            if is_instance_by_name(client.model, "AbstractGradSampleHooks", "opacus")
            else client.model
        )
        return model.cpu(), tuple(client.steps)

    def _names_in(self, model: nn.Module) -> Mapping[str, str]:
        """Return parameter names by array name, if the model's library uses other names."""
        inner = adapter_of(bare := Subject(model))
        return {} if inner is None else make_subject(inner, bare, self.name).names

    def _update(
        self, model: nn.Module, received: Mapping[str, Tensor], sent: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the weight delta (received minus sent) of each trained parameter."""
        trained = [name for name, p in model.named_parameters() if p.requires_grad]
        for name in trained:
            if name not in received or name not in sent:
                side = "the server sends" if name not in received else "the client answers with"
                raise FedsimError(
                    f"'{name}' is trained in the ClientApp of '{self.name}', but not among the "
                    f"arrays that {side}. Send ArrayRecord(model.state_dict()) of the trained "
                    "model, or the state dict of its library."
                )
        return {name: received[name].float() - sent[name].float() for name in trained}


def _mods_of(client: Any) -> tuple[Any, ...]:
    return tuple(getattr(client, "_mods", ()))


def _is_secure(mod: Any) -> bool:
    """Return whether a mod is a private defense of fedsim that draws its noise from ChaCha20."""
    return _is_private(mod) and mod.is_secure


def _secure_mods(client: Any) -> tuple[str, ...]:
    return ("The noise is not computable: ChaCha20.",) if any(map(_is_secure, _mods_of(client))) else ()


def _noise_of(client: Any, received: Mapping[str, Tensor], sent: Mapping[str, Tensor]) -> NoisyMessage | None:
    """Return the sent update with its noise, or None if no mod adds noise or one is secure."""
    mods = _mods_of(client)
    noisy = [mod for mod in mods if _is_flowers(mod) or _is_private(mod)]
    if not noisy or any(map(_is_secure, mods)):
        return None
    # The difference has the sign of the noise that the outermost noisy mod adds: Flower's mod adds noise to the new
    # weights, also to integers, and a mod of fedsim to received minus new weights.
    is_flowers = _is_flowers(noisy[0])
    first, second = (sent, received) if is_flowers else (received, sent)
    names = [name for name in sent if name in received and (is_flowers or sent[name].is_floating_point())]
    moved = {name: _difference(first[name], second[name]) for name in names}
    # A mod outside of the noisy mod could change the scale of the noise.
    return NoisyMessage(lambda: moved, _deviation_of(noisy[0]) if noisy == [mods[0]] else None)


def _difference(first: Tensor, second: Tensor) -> Tensor:
    return first - second if first.is_floating_point() else (first - second).float()


def _is_flowers(mod: Any) -> bool:
    return is_instance_by_name(mod, "LocalDpMod", "flwr")


def _is_private(mod: Any) -> bool:
    return is_instance_by_name(mod, "DefendingMod", "fedsim") and mod.mechanism is not None


def _deviation_of(mod: Any) -> float | None:
    """Return the standard deviation of a mod's noise by its settings, or None if they state no finite one."""
    if not _is_flowers(mod):
        return mod.deviation
    if not (mod.epsilon > 0 and 0 < mod.delta < _MOST_DELTA):
        return None
    return float(mod.sensitivity * math.sqrt(2 * math.log(_MOST_DELTA / mod.delta)) / mod.epsilon) or None


def _is_missed(examples: int, steps: Sequence[Batch]) -> bool:
    """Return whether fewer examples were observed than full passes contain; each pass may drop a partial batch."""
    seen, largest = sum(map(len, steps)), max(map(len, steps))
    passes = math.ceil(seen / examples)
    return passes * examples - seen >= passes * largest


def _name_arrays(arrays: Mapping[str, Tensor], model: nn.Module, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Return arrays under the model's names if they are numbered, renamed by its library, or prefixed by Opacus."""
    known = model.state_dict()
    arrays = {name.removeprefix(_OF_OPACUS): tensor for name, tensor in arrays.items()}
    arrays = {names.get(name, name): tensor for name, tensor in arrays.items()}
    is_numbered = list(arrays) == [str(number) for number in range(len(known))]
    return dict(zip(known, arrays.values(), strict=True)) if is_numbered else arrays


@contextmanager
def _folder_of(path: Path) -> Iterator[Path]:
    """Yield the folder of an app; an archive is extracted into a temporary folder."""
    if path.is_dir():
        yield path.resolve()
        return
    if path.suffix != _ARCHIVE or not path.is_file():
        raise FedsimError(f"no folder or {_ARCHIVE} file {path}, searched from {Path.cwd().name or '/'}.")
    with TemporaryDirectory(prefix="fedsim-app-") as folder:
        unpack(path, Path(folder))
        yield Path(folder).resolve()


@contextmanager
def _prepend_import_path(folder: Path) -> Iterator[None]:
    """Put a folder first on the import path."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _load(folder: Path, name: str) -> _Apps:
    """Import both apps of a folder.

    Raises:
        FedsimError: the project names none, or an app cannot be imported.
    """
    table = _table_of(folder, name)
    components = table.get("components", {})
    for kind in ("serverapp", "clientapp"):
        if kind not in components:
            raise FedsimError(
                f"{_PROJECT} of '{name}' has no {kind} in [tool.flwr.app.components], expected one as "
                f'{kind} = "package.module:app".'
            )
    server, client = (_app(components[kind], kind, folder, name) for kind in ("serverapp", "clientapp"))
    from fedsim.core.foreign.flower.project import flatten_dict  # noqa: PLC0415 - Flower is slow to import

    mods = tuple(getattr(mod, "__name__", type(mod).__name__) for mod in _mods_of(client))
    return _Apps(client, server, mods, flatten_dict(table.get("config", {})))


def _table_of(folder: Path, name: str) -> dict[str, Any]:
    project = folder / _PROJECT
    if not project.is_file():
        raise FedsimError(
            f"'{name}' holds no {_PROJECT}, so it is not the folder of a Flower app. Name the "
            "folder that `flwr run` accepts, or package.module:function."
        )
    try:
        tables = tomllib.loads(project.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FedsimError(f"{project} is not TOML: {error}.") from error
    table = tables.get("tool", {}).get("flwr", {}).get("app")
    if table is None:
        raise FedsimError(
            f"{_PROJECT} of '{name}' has no [tool.flwr.app], so it is no Flower app. Name the app's folder."
        )
    return table


def _app(reference: str, kind: str, folder: Path, name: str) -> Any:
    module_name, _, attribute = str(reference).partition(":")
    try:
        module = importlib.import_module(module_name)
        app: Any = module
        for part in attribute.split("."):
            app = getattr(app, part)
    except Exception as error:
        raise FedsimError(
            f"the {kind} '{reference}' of '{name}' cannot be loaded: {type(error).__name__}: "
            f"{error}. Try `flwr run` first, and install the missing packages."
        ) from error
    if not Path(str(module.__file__)).resolve().is_relative_to(folder):
        raise FedsimError(
            f"module '{module_name}' of '{name}' was loaded from {module.__file__} before. Audit each app in a process "
            "of its own."
        )
    wanted = "ServerApp" if kind == "serverapp" else "ClientApp"
    if not is_instance_by_name(app, wanted, "flwr"):
        raise FedsimError(f"the {kind} '{reference}' of '{name}' is of type {type(app).__name__}, expected a {wanted}.")
    return app


def unpack(archive: Path, folder: Path) -> None:
    """Extract the files of an archive into a folder; nothing in it is executed or unpickled.

    Raises:
        FedsimError: the archive cannot be read, is too large, or holds a link or a path outside the folder.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            _check(archive, packed.infolist())
            packed.extractall(folder)
    except (OSError, zipfile.BadZipFile) as error:
        raise FedsimError(
            f"cannot read {archive}: {first_line(error).rstrip('.')}. Build it again with `flwr build`."
        ) from error


def _check(archive: Path, files: list[zipfile.ZipInfo]) -> None:
    for file in files:
        path = PurePosixPath(file.filename.replace("\\", "/"))
        leaves = path.is_absolute() or ".." in path.parts or ":" in file.filename
        if leaves or stat.S_ISLNK(file.external_attr >> _MODE):
            raise FedsimError(
                f"{archive} holds '{file.filename}', a "
                f"{'path that leaves' if leaves else 'link, which may leave'} its folder. `flwr "
                "build` writes no such file: check its origin."
            )
    if sum(file.file_size for file in files) > _MOST_BYTES:
        raise FedsimError(f"{archive} unpacks to more than {_MOST_BYTES >> 20} MiB, expected the sources of an app.")
