"""What a user imports: `fedsim` and nothing below it."""

import importlib.util
import inspect
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fedsim
from fedsim import api
from fedsim.core.errors import FedsimError, MissingExtra
from tests.experiment.sweep.sweeping import Here
from tests.report import records

ROOT = Path(__file__).parent.parent

TABLES: dict[str, Any] = {
    "title": "One step, two clients",
    "data": {"name": "digits"},
    "model": {"name": "mlp", "width": 24},
    "federation": {"clients": 4},
    "attacks": [{"name": "closed-form-linear"}],
}

SWEPT = {**TABLES, "sweep": {"grid": {"federation.batch_size": [1, 2]}}}


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> fedsim.Run:
    return fedsim.run(TABLES, out=tmp_path_factory.mktemp("api") / "run")


def test_importing_fedsim_loads_no_torch_and_shows_every_name() -> None:
    code = "import sys, fedsim, json; print(json.dumps([sorted(sys.modules), dir(fedsim), fedsim.__all__]))"
    loaded, shown, public = json.loads(python(code))
    assert not {"torch", "numpy", "pydantic", "fedsim.api", "fedsim.core"} & set(loaded)
    assert set(public) <= set(shown)


@pytest.mark.parametrize("name", [name for name in fedsim.__all__ if name != "__version__"])
def test_every_name_is_there_and_described(name: str) -> None:
    assert inspect.getdoc(getattr(fedsim, name))


def test_an_unknown_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fedsim.nothing  # noqa: B018


def test_an_audit_is_a_function_beside_the_package_of_its_modules() -> None:
    assert importlib.import_module("fedsim.audit.session").AuditSession is fedsim.audit.session.AuditSession
    assert list(inspect.signature(fedsim.audit_client).parameters)[:2] == ["client", "batches"]
    with pytest.raises(FedsimError, match=re.escape("expected a tuple (model, loss, loader)")):
        fedsim.audit_client(lambda: None)


def test_a_run_has_its_record_rows_table_and_report(run: fedsim.Run) -> None:
    assert run.record.status == "finished"
    assert run.record.environment.command == "fedsim.run(scenario)"
    assert run.report == run.path / "report.html"
    assert "One step, two clients" in run.report.read_text()
    rows = run.rows()
    assert {row["attack"] for row in rows} == {"closed-form-linear"}
    assert min(row["psnr_db"] for row in rows) > 60


def test_a_table_is_a_data_frame_where_pandas_is_installed(run: fedsim.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert run.table() == run.rows()
    monkeypatch.undo()
    pytest.importorskip("pandas")
    table = run.table()
    assert list(table["psnr_db"]) == [row["psnr_db"] for row in run.rows()]


def test_a_frame_has_a_row_for_every_metric_of_every_finding(run: fedsim.Run) -> None:
    pytest.importorskip("pandas")
    frame = run.to_frame()
    (arm,) = run.record.arms
    (attack,) = arm.findings
    assert list(frame["metric"]) == ["success", *attack.extra_metrics]
    main = frame[frame["is_main"]].iloc[0]
    assert attack.value is not None
    assert (main["label"], main["value"], main["n"]) == ("closed-form-linear", attack.value.value, attack.value.n)
    psnr = frame[frame["metric"] == "psnr_median"].iloc[0]
    assert psnr["value"] == pytest.approx(statistics.median(row["psnr_db"] for row in run.rows()))


def test_without_pandas_a_frame_says_how_to_get_it(run: fedsim.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtra, match=re.escape("pip install 'fedsim-privacy[pandas]'")):
        run.to_frame()


def test_a_failed_attack_has_no_value_in_a_frame(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    lost = records.attack("idlg", [records.failed(0, "no label was found")])
    records.save(tmp_path, records.run([records.arm("one", [lost])]))
    frame = fedsim.Run(tmp_path).to_frame()
    assert list(frame["state"]) == ["failed"]
    assert frame["value"].isna().tolist() == [True]


def test_a_folder_is_loaded_and_an_empty_one_refused(run: fedsim.Run, tmp_path: Path) -> None:
    assert fedsim.load(run.path) == run
    with pytest.raises(FedsimError, match="not the folder of a run"):
        fedsim.load(tmp_path)


def test_a_scenario_of_a_file_takes_overrides_and_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s.toml").write_text(
        'title = "t"\ndata.name = "digits"\nmodel = { name = "mlp", width = 8 }\nfederation.clients = 2\n'
        'attacks = [{ name = "closed-form-linear" }]\n'
    )
    made = fedsim.run("s.toml", ["seed=5"])
    assert made.path == Path("results/s")
    assert made.record.plan["seed"] == 5
    assert made.record.environment.command == "fedsim.run('s.toml', ['seed=5'])"
    with pytest.raises(FedsimError, match="already holds a run"):
        fedsim.run("s.toml")
    assert fedsim.run("s.toml", resume=True, overrides=["seed=5"]).record.arms == made.record.arms
    with pytest.raises(FedsimError, match="holds a run of another scenario"):
        fedsim.run("s.toml", resume=True)
    with pytest.raises(FedsimError, match="Did you mean 'mlp'"):
        fedsim.run("s.toml", ["model.name=mpl"])
    with pytest.raises(FedsimError, match="overrides change the scenario of a file"):
        fedsim.run(TABLES, ["seed=5"])


def test_a_sweep_is_made_loaded_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "ProcessExecutor", Here)
    runs = fedsim.sweep(SWEPT, out=tmp_path / "sweep", jobs=1)
    assert runs.problems == {}
    assert [run.record.plan["federation"]["batch_size"] for run in runs] == [1, 2]
    assert {row["federation.batch_size"] for row in runs.rows()} == {1, 2}
    assert len(runs.table()) == len(runs.rows())
    pytest.importorskip("pandas")
    frame = runs.to_frame()
    assert len(frame) == sum(len(run.to_frame()) for run in runs)
    assert frame.groupby("federation.batch_size")["run"].nunique().to_dict() == {1: 1, 2: 1}
    assert fedsim.load(tmp_path / "sweep") == runs
    assert runs.report.exists()
    with pytest.raises(FedsimError, match="Use: fedsim.sweep"):
        fedsim.run(SWEPT)


def test_the_page_about_python_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pandas")
    (block,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text(), flags=re.S | re.M)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "ProcessExecutor", Here)
    names: dict[str, Any] = {}
    exec(compile(block, "docs/python.md", "exec"), names)
    assert capsys.readouterr().out.splitlines()[1:3] == ["closed-form-linear", "results/one/report.html"]
    assert [run.record.status for run in names["same"]] == ["finished", "finished"]


HOST = """
import logging, os, sys
for name in list(os.environ):
    if name.startswith(("OMP_", "KMP_", "FLWR_", "HF_", "RAY_")):
        del os.environ[name]
import torch
torch.set_num_threads(2)
log = logging.getLogger("flwr")

def state():
    own = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}  # which flwr sets
    return own, torch.get_num_threads(), os._exit, log.propagate

before = state()
import fedsim
run = fedsim.run
print(state() == before)
done = run(sys.argv[1], out=sys.argv[2])
print(state() == before, done.record.environment.torch_threads, done.record.status)
try:
    run(sys.argv[1], out=sys.argv[2])
except Exception as error:
    print(type(error).__name__, state() == before)
"""


def test_neither_import_nor_run_changes_the_process_of_its_host(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(
        'title = "hosted"\ndata = { name = "digits" }\nmodel = { name = "mlp", width = 8, depth = 1 }\n'
        'federation = { clients = 4 }\nattacks = [{ name = "closed-form-linear" }]\n'
    )
    done = subprocess.run(
        [sys.executable, "-c", HOST, str(path), str(tmp_path / "out")], check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == ["True", "True 1 finished", "FedsimError True"]


def test_a_run_is_resumed_or_replaced_but_not_both(tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match="resume and overwrite exclude each other"):
        fedsim.run({}, out=tmp_path / "out", resume=True, overwrite=True)
    assert not (tmp_path / "out").exists()


def diverging(rates: list[float]) -> dict[str, Any]:
    optimizers = [{"name": "sgd", "learning_rate": rate} for rate in rates]
    return {
        "title": "diverging",
        "data": {"name": "digits"},
        "model": {"name": "mlp", "width": 8, "depth": 1},
        "federation": {"clients": 4, "algorithm": "fedavg", "local_steps": 5},
        "attacks": [{"name": "closed-form-linear"}],
        "arms": {"federation.optimizer": optimizers},
    }


def test_an_arm_whose_training_diverges_fails_and_the_others_run(tmp_path: Path) -> None:
    record = fedsim.run(diverging([0.1, 1e30, 0.2]), out=tmp_path / "out").record
    assert record.status == "finished"
    assert [arm.values["federation.optimizer"]["learning_rate"] for arm in record.arms] == [0.1, 0.2]
    (failure,) = record.failures
    assert failure.subject.startswith("arm optimizer")
    assert re.search(
        r"no finite update of 4; federation\.optimizer\.learning_rate is 1e\+30, try 1e\+29", failure.reason
    )
    again = fedsim.run(diverging([0.1, 1e30, 0.2]), out=tmp_path / "out", resume=True).record
    assert [arm.model_hash for arm in again.arms] == [arm.model_hash for arm in record.arms]
    assert again.failures == record.failures


def test_where_every_arm_diverges_the_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match=r"no finite update of 4.*learning_rate is 1e\+31"):
        fedsim.run(diverging([1e30, 1e31]), out=tmp_path / "out")
