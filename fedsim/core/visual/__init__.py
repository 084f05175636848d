"""What a model that reads images and text shows of its visual tokens, to leave them out, merge them or mend them."""

from fedsim.core.visual.answering import AnsweringModel, ReadPrompt, acting, can_answer
from fedsim.core.visual.held import Held
from fedsim.core.visual.reducer import (
    LayerView,
    ReadsImages,
    VisualReducer,
    VisualShape,
    can_read_images,
    reads_images,
)
from fedsim.core.visual.stream import Stream
from fedsim.core.visual.watching import Passed, visual_passes

__all__ = [
    "AnsweringModel",
    "Held",
    "LayerView",
    "Passed",
    "ReadPrompt",
    "ReadsImages",
    "Stream",
    "VisualReducer",
    "VisualShape",
    "acting",
    "can_answer",
    "can_read_images",
    "reads_images",
    "visual_passes",
]
