"""App bundles: build, installation, and import of the app."""

from flwr.cli.build import build_fab_from_files
from flwr.cli.install import install_from_fab
from flwr.supercore.object_ref import load_app

__all__ = ["build_fab_from_files", "install_from_fab", "load_app"]
