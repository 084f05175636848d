"""Components that do nothing."""

from typing import Any

from fedsim.core.hooks import Layer
from fedsim.core.types import Config


class Nothing(Layer[Config]):
    def prepare(self, model: Any, generator: Any) -> Any:
        return model
