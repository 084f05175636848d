"""Configuration of an app in its pyproject.toml."""

from flwr.common.config import flatten_dict, get_project_config

__all__ = ["flatten_dict", "get_project_config"]
