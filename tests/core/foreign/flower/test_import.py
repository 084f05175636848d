"""Undocumented names of Flower exist, and a run without nodes imports no client of a SuperLink."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from fedsim.core.foreign import flower
from fedsim.core.foreign.flower import app_files, in_process, project, runtime, superlink

MODULES = sorted(path.stem for path in Path(flower.__file__).parent.glob("*.py") if not path.stem.startswith("_"))


@pytest.mark.parametrize("module", MODULES)
def test_every_name_exists(module: str) -> None:
    here = importlib.import_module(f"fedsim.core.foreign.flower.{module}")
    assert here.__all__
    assert all(hasattr(here, name) for name in here.__all__)


def test_nested_tables_are_flattened() -> None:
    assert project.flatten_dict({"a": {"b": 1}, "c": 2}) == {"a.b": 1, "c": 2}


def test_a_run_and_a_task_have_the_attributes_in_use() -> None:
    assert in_process.Run.create_empty(run_id=7).run_id == 7
    in_process.TaskIdentity.task_id = in_process.TaskIdentity.run_id = in_process.TaskIdentity.node_id = 1
    assert in_process.TaskIdentity.run_id == 1
    assert in_process.telemetry.FLWR_TELEMETRY_ENABLED in ("0", "1")


def test_an_invoker_repeats_a_call_that_fails() -> None:
    failures = iter([OSError("first"), OSError("second")])

    def call() -> str:
        for failure in failures:
            raise failure
        return "answer"

    retry = runtime.RetryInvoker(lambda: runtime.exponential(base_delay=0.001), OSError, max_tries=3, max_time=10)
    assert retry.invoke(call) == "answer"


def test_an_app_bundle_has_a_digest_and_a_message_form() -> None:
    parts = superlink.fab_to_proto(superlink.Fab("digest", b"content", {}))
    assert (parts.hash_str, parts.content) == ("digest", b"content")


def test_an_app_is_loaded_by_its_path() -> None:
    from flwr.clientapp import ClientApp

    assert app_files.load_app("flwr.clientapp:ClientApp", ValueError) is ClientApp


def test_modules_without_nodes_import_no_client_of_a_superlink() -> None:
    code = (
        "import sys; from fedsim.core.foreign.flower import in_process, messages; "
        "slow = {'flwr.superlink.grid', 'flwr.cli.build', 'flwr.common.config'}; print(slow & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert answer.stdout.strip() == "set()"
