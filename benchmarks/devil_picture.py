"""Draw what DeViL says of foolbox's 20 photographs of ImageNet, and where the name of each one's class fits best.

`python -m benchmarks.devil_picture docs/images/devil.png`. A photograph is shown small and grey; colours are the map of
the class's name in the deepest layer, from its least fitting place (blue) to its most fitting one (yellow). Above it
stands the class's name, and below it what is written from all layers.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import argparse  # noqa: E402
import io  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from PIL import Image  # noqa: E402

from benchmarks import _captioned as parts  # noqa: E402
from benchmarks.devil import sentences  # noqa: E402
from fedsim.components.probe.devil import map_phrase  # noqa: E402

_COLUMNS, _SHOWN = 5, 56


def draw(file: Path) -> None:
    """Write the picture."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to import

    images, classes = parts.samples()
    names = [parts.photographs()[1][class_number] for class_number in classes]
    features = parts.read(images)
    translator, last = parts.translator(), len(parts.LAYERS) - 1
    texts = sentences(translator, features, range(len(parts.LAYERS)))
    figure = Figure(figsize=(10, 9.5), layout="constrained")
    axes = figure.subplots(-(-len(images) // _COLUMNS), _COLUMNS).flatten()
    for number, (place, image, name, text) in enumerate(zip(axes, images, names, texts, strict=False)):
        some = [feature[number : number + 1] for feature in features]
        heat = map_phrase(translator, parts.language(), some, (last,), parts.tokens(name)[:-1])
        wide = F.interpolate(heat[None].float(), (_SHOWN, _SHOWN), mode="bilinear", align_corners=False)[0, 0]
        grey = F.interpolate(image.mean(0)[None, None], (_SHOWN, _SHOWN), mode="area")[0, 0]
        place.imshow(grey, cmap="gray", vmin=0, vmax=1)
        place.imshow(wide, cmap="viridis", alpha=0.5)
        place.set_title(name, fontsize=9)
        place.set_xlabel(text, fontsize=9)
        place.set_xticks([])
        place.set_yticks([])
    bytes_io = io.BytesIO()
    figure.savefig(bytes_io, dpi=80, format="png")
    Image.open(bytes_io).convert("RGB").quantize(128).save(file, optimize=True)  # a third of the bytes


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="picture to write")
    draw(parser.parse_args().file)
