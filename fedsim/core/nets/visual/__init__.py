"""Interface to the visual tokens of vision-language models, for dropping, merging or correcting them."""

from fedsim.core.nets.visual.answering import AnsweringModel, ReadPrompt, add_reducer, can_answer
from fedsim.core.nets.visual.held import PromptCache
from fedsim.core.nets.visual.reducer import (
    LayerView,
    ReadsImages,
    VisualReducer,
    VisualShape,
    can_read_images,
    reads_images,
)
from fedsim.core.nets.visual.stream import Stream
from fedsim.core.nets.visual.watching import Passed, visual_passes

__all__ = [
    "AnsweringModel",
    "LayerView",
    "Passed",
    "PromptCache",
    "ReadPrompt",
    "ReadsImages",
    "Stream",
    "VisualReducer",
    "VisualShape",
    "add_reducer",
    "can_answer",
    "can_read_images",
    "reads_images",
    "visual_passes",
]
