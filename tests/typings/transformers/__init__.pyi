# Whoever takes a name from this package has pyright read its thousand modules: a quarter of its time. All is Any here.
from typing import Any

def __getattr__(name: str) -> Any: ...
