"""Small copies of the sets that a user brings along, in the layout of the real ones."""

import gzip
import io
import struct
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


def noise(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *shape), dtype=np.uint8)


def write_idx(file: Path, values: np.ndarray) -> None:
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    content = header + values.tobytes()
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)


@pytest.fixture(scope="session")
def fashion_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fashion-mnist")
    for part, count in (("train", 40), ("t10k", 20)):
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", noise(count, 28, 28))
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8) // (count // 10))
    return folder


@pytest.fixture(scope="session")
def cifar_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("cifar10") / "pack.npz"
    arrays: dict[str, Any] = {}
    for part, count in (("train", 40), ("test", 20)):
        encoded = [_jpeg(image) for image in noise(count, 32, 32, 3)]
        arrays[f"{part}_jpeg"] = np.frombuffer(b"".join(encoded), np.uint8)
        arrays[f"{part}_offset"] = np.cumsum([0, *map(len, encoded)])
        arrays[f"{part}_label"] = np.arange(count, dtype=np.uint8) // (count // 10)
    np.savez(file, **arrays)
    return file


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for label, name in enumerate(("cat", "dog", "owl")):
        (folder / name).mkdir()
        for index, pixels in enumerate(noise(10, 40 + label, 50, 3)):
            Image.fromarray(pixels + np.uint8(label)).save(folder / name / f"{index}.{'png' if index % 2 else 'JPG'}")
    return folder


def write_wave(file: Path, samples: np.ndarray, rate: int = 8000) -> None:
    with wave.open(str(file), "wb") as opened:
        opened.setparams((1, 2, rate, 0, "NONE", ""))
        opened.writeframes(samples.astype("<i2").tobytes())


@pytest.fixture(scope="session")
def sounds_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two voices: of the first a tone is low, of the second high; a numeral's last digit shifts it a little."""
    folder = tmp_path_factory.mktemp("sounds")
    tens = range(20, 100, 10)
    names = [*map(str, (*range(20), *tens)), *(f"h-{number}" for number in (*range(1, 21), *tens[1:]))]
    for voice, tone in (("it_IT_f_Menardi", 600), ("it_IT_m_Carlo", 2000)):
        (folder / voice / "digits").mkdir(parents=True)
        for number, name in enumerate(names):
            hertz = tone + 100 * int(name[-1])
            sound = 9000 * np.sin(2 * np.pi * hertz * np.arange(2000 + 20 * number) / 8000)
            write_wave(folder / voice / "digits" / f"{name}.wav", sound)
    return folder


@pytest.fixture(scope="session")
def settings(
    fashion_folder: Path, cifar_pack: Path, photo_folder: Path, sounds_folder: Path
) -> dict[str, dict[str, Any]]:
    """Settings that a data set cannot do without."""
    return {
        "fashion-mnist": {"path": fashion_folder},
        "cifar10": {"path": cifar_pack},
        "image-folder": {"path": photo_folder},
        "spoken-digits": {"path": sounds_folder, "voices": ["menardi-it", "carlo-it"]},
    }


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


WORDS = ["river", "stone", "green", "walks", "under", "seven", "lamps", "while", "nobody", "sings", "about", "winter"]


def _sentence(document: int, number: int) -> str:
    return " ".join(WORDS[(document * 5 + number * (k + 1) + k) % len(WORDS)] for k in range(6)) + f" {number}."


@pytest.fixture(scope="session")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "documents.txt"
    written = [f"Document {d} begins here. " + " ".join(_sentence(d, n) for n in range(5)) for d in range(10)]
    path.write_text("\n\n".join(written), encoding="utf-8")
    return path
