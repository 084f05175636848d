"""The built wheel, installed without the repository, is whole: what a newcomer does in an empty folder."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
FEW = ["federation.rounds=1", *(f"attacks.{n}.max_iterations=5" for n in range(3))]
BUILDER = shutil.which("podman") or shutil.which("docker")
HIDES_MLXTEND = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "mlxtend" else find(name, package)
"""

pytestmark = pytest.mark.slow


class Installed:
    """A fresh environment that holds the wheel beside the packages of this one, and an empty folder to work in."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "empty"
        self.folder.mkdir()
        venv.create(home / "venv", with_pip=False)
        self.bin = home / "venv" / "bin"
        (site,) = (home / "venv" / "lib").glob("*/site-packages")
        self.site = site
        present = [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
        (site / "present.pth").write_text("\n".join(present))

    def install(self, *what: str) -> None:
        python = ["--python", str(self.bin / "python")]
        options = ["-q", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed"]
        self._run(sys.executable, "-m", "pip", *python, "install", *options, *what)

    def _run(self, *command: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        done = subprocess.run(
            command, cwd=self.folder, env={**inherited, **environment}, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def fedsim(self, *arguments: str, code: int = 0, **environment: str) -> str:
        done = self._run(str(self.bin / "fedsim"), *arguments, code=code, **environment)
        return done.stderr if code else done.stdout

    def python(self, *arguments: str) -> str:
        return self._run(str(self.bin / "python"), *arguments).stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    home = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(home / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    made = Installed(home)
    (wheel,) = (home / "dist").glob("*.whl")
    made.install(str(wheel))
    return made


def test_the_repository_is_not_needed(installed: Installed) -> None:
    where = installed.python("-c", "import fedsim, attacks, defenses; print(fedsim.__file__, attacks.__file__)")
    assert where.count(str(installed.site)) == 2
    assert str(ROOT) not in installed.python("-c", "import fedsim.cli.main, sys; print(sys.path[0], fedsim.__path__)")


def test_the_version_is_told_by_the_command_and_the_module(installed: Installed) -> None:
    told = installed.fedsim("--version")
    assert told.startswith("fedsim ")
    assert installed.python("-m", "fedsim", "--version") == told


def test_every_scenario_is_listed(installed: Installed) -> None:
    listed = {own["name"] for own in json.loads(installed.fedsim("list", "scenarios", "--json"))}
    assert listed == {path.stem for path in (ROOT / "scenarios").glob("*.toml")}
    assert "00_quickstart" in installed.fedsim("list", "scenarios")


def test_the_schemas_of_policies_are_in_it(installed: Installed) -> None:
    for schema in (ROOT / "docs" / "schemas").iterdir():
        assert (installed.site / "fedsim" / "schemas" / schema.name).read_bytes() == schema.read_bytes()


def test_the_quickstart_runs_by_name_and_leaves_a_report(installed: Installed) -> None:
    told = installed.fedsim("run", "quickstart", *(part for one in FEW for part in ("--set", one)))
    assert "Report: results/00_quickstart/report.html" in told
    assert (installed.folder / "results" / "00_quickstart" / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["closed-form-vit", "sapag", "deep-image-prior"])
def test_the_example_that_show_prints_runs(installed: Installed, name: str) -> None:
    """The printed scenario, saved where nothing else is, and attacked with settings that take seconds."""
    _, printed = installed.fedsim("show", name).split("A small scenario in which it applies:\n")
    (installed.folder / f"{name}.toml").write_text(printed, encoding="utf-8")
    quick = [] if name == "closed-form-vit" else ["--set", "attacks.0.max_iterations=5"]
    (arm,) = json.loads(installed.fedsim("run", f"{name}.toml", *quick, "--json"))["arms"]
    (finding,) = arm["findings"]
    assert finding["value"]["n"] == 1
    assert name != "closed-form-vit" or finding["more"]["psnr_median"]["value"] > 100


def test_what_init_writes_runs(installed: Installed) -> None:
    installed.fedsim("init")
    assert {"quickstart.toml", "scenario.toml"} <= {path.name for path in installed.folder.iterdir()}
    found = json.loads(installed.fedsim("run", "scenario.toml", "--json"))
    assert [arm["name"] for arm in found["arms"]] == ["dropout 0.0", "dropout 0.5"]


def test_a_new_attack_is_a_package_that_installs_and_is_listed(installed: Installed) -> None:
    assert "pip install --editable ./my-attack" in installed.fedsim(
        "new", "attack", "my-attack", "--template", "closed-form"
    )
    installed.install(str(installed.folder / "my-attack"))
    assert "my-attack (attack)" in installed.fedsim("show", "my-attack")
    options = [
        "data.name=digits",
        "model={name='mlp', width=32}",
        "attacks=[{name='my-attack'}]",
        "federation.rounds=1",
        "scoring={}",
    ]
    told = installed.fedsim("run", "quickstart", "--out", "mine", *(part for one in options for part in ("--set", one)))
    assert "my-attack on client 0" in told


CLIENT = """
import torch
import torch.nn.functional as F
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from torch import nn
from torch.utils.data import DataLoader, StackDataset

class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.high, self.much = nn.Linear(10, 64), nn.Linear(64, 2), nn.Linear(64, 1)

    def forward(self, rows):
        features = self.body(rows).relu()
        return {"is_high": self.high(features), "much": self.much(features)}

def loss(outputs, labels):
    return F.cross_entropy(outputs["is_high"], labels["is_high"]) + F.mse_loss(outputs["much"], labels["much"])

def make_heads():
    rows, numbers = load_diabetes(return_X_y=True)
    numbers = torch.tensor(numbers / 100).float()
    labels = StackDataset(is_high=(numbers > 1.5).long(), much=numbers[:, None])
    return Heads(), loss, DataLoader(StackDataset(torch.tensor(20 * rows).float(), labels), batch_size=32)

def make_regressor():
    rows, numbers = load_diabetes(return_X_y=True)
    return Ridge().fit(20 * rows, numbers / 100), 20 * rows, numbers / 100
"""


@pytest.mark.parametrize("client", ["make_heads", "make_regressor"])
def test_an_audit_of_numbers_and_of_heads_ends_with_its_answer(installed: Installed, client: str) -> None:
    (installed.folder / "client.py").write_text(CLIENT)
    options = ["--batch-sizes", "1", "--minutes", "1", "--no-defenses", "--out", f"audit-{client}"]
    told = installed.fedsim("audit", f"client.py:{client}", *options)
    assert "Updates of one row give the row back (8 of 8)" in " ".join(told.split())
    assert (installed.folder / f"audit-{client}" / "audit.html").stat().st_size > 10_000


def test_a_missing_extra_is_named_before_anything_starts(installed: Installed) -> None:
    hooks = installed.folder / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(HIDES_MLXTEND)
    told = installed.fedsim("run", "quickstart", "--out", "none", code=2, PYTHONPATH=str(hooks))
    assert "pip install 'fedsim-privacy[data]'" in told
    assert "Traceback" not in told
    assert not list((installed.folder / "none").glob("*.json"))


SERIES = """
title = "One client with series"
data = { name = "made-series" }
model = { name = "mlp", width = 32 }
federation = { clients = 2, rounds = 1, batch_size = 1 }
threat = { knows = ["batch-size", "dropout-rates", "input-statistics"], victims = 1 }
attacks = [{ name = "closed-form-linear" }]
"""
TEXTS = """
title = "One client with texts"
data = { name = "text-file", path = "text.txt", length = 16 }
model = { name = "tiny-llama" }
federation = { clients = 2, rounds = 1, batch_size = 1 }
threat = { knows = ["batch-size", "dropout-rates"], victims = 1 }
attacks = [{ name = "dager" }]
"""
PICTURES = """
title = "One client with pictures"
data = { name = "image-folder", path = "pictures", size = 8 }
model = { name = "efficientnet-lite0", size = 32 }
federation = { clients = 2, rounds = 1, batch_size = 1 }
threat = { knows = ["labels", "batch-size", "dropout-rates", "input-statistics"], victims = 1 }
attacks = [{ name = "inverting-gradients", max_iterations = 2 }]
"""
TRANSFORMERS_CLIENT = """
import torch
from transformers import ViTConfig, ViTForImageClassification

def make():
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    model = ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=2, **shape))
    return model, None, [(torch.rand(8, 1, 8, 8), torch.arange(8) % 2)]
"""
LINEAR_CLIENT = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Linear(6, 3), None, [(torch.rand(8, 6), torch.arange(8) % 3)]
"""
CAPTURES = """
from client import make
from torch.nn.functional import cross_entropy
from safetensors.torch import save_file
model, _, ((rows, labels),) = make()
cross_entropy(model(rows[:1]), labels[:1]).backward()
save_file({name: p.grad for name, p in model.named_parameters()}, "sent.safetensors")
"""
DRAWS_A_CODE = """
import sys
from fedsim.core.errors import FedsimError
from fedsim.cli.commands.demo import code_of
try:
    print(code_of("http://127.0.0.1:1"))
except FedsimError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""
MAKES_A_FRAME = """
import sys
import fedsim
from fedsim.core.errors import FedsimError
try:
    print(fedsim.load("results/series").to_frame())
except FedsimError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""
BOOSTS = "trees={clients=2,rows=20,trees=1,depth=2,attacks=[{name='leaf-counts'}]}"
SEARCHES = "attacks=[{name='inverting-gradients',max_iterations=2}]"
KNOWS = "threat.knows=['labels','batch-size','dropout-rates','input-statistics']"
TUNES = "tune={attack='inverting-gradients',space={max_iterations=[2,3]},trials=2}"
AUDIT = ("audit", "client.py:make", "--batch-sizes", "1", "--minutes", "1", "--no-defenses")
NEEDS = {  # of each extra, what needs it; drawing a code is a part of a command that listens until it is ended
    "data": ("run", "quickstart", *(part for one in FEW for part in ("--set", one))),
    "news": ("run", "texts.toml", "--set", "data={name='lee-news',length=16}"),
    "photographs": ("run", "series.toml", "--set", "data={name='foolbox-samples'}"),
    "parquet": ("export", "results/series", "--parquet"),
    "duckdb": ("export", "results/series", "--duckdb"),
    "pandas": ("-c", MAKES_A_FRAME),
    "tune": ("tune", "series.toml", "--set", SEARCHES, "--set", KNOWS, "--set", TUNES),
    "tabular": ("run", "series.toml", "--set", "data={name='affairs-survey'}"),
    "audit": (*AUDIT, "--gradients", "sent.safetensors"),
    "transformers": ("audit", "vit_client.py:make", *AUDIT[2:]),
    "efficientnet": ("run", "pictures.toml"),
    "llm": ("run", "texts.toml", "--set", "data.identities=10"),
    "constrain": (
        "generate", "--model", "tiny-llama", "--prompt", "Hello", "--decoder", "awrs", "--set", "regex=[a-z ]*",
        "--max-new-tokens", "4",
    ),
    "trees": ("run", "series.toml", "--set", "data={name='breast-cancer'}", "--set", BOOSTS),
    "demo": ("-c", DRAWS_A_CODE),
    "flower-sim": ("run", "series.toml", "--set", "federation.engine='ray'"),
}  # fmt: skip
BESIDE = {"trees": "data"}  # tables to grow trees on
OF_THE_REPOSITORY = {"docs", "dev"}  # who has these has the repository


class Alone:
    """The wheel with what it requires, as pip gets it from its index, and then with one extra more."""

    def __init__(self, home: Path) -> None:
        self.home = home
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(home / "dist")]
        subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
        self.folder = home / "empty"
        self.folder.mkdir()
        (wheel,) = (home / "dist").glob("*.whl")
        self.base = self.environment("base")
        self.install(self.base, str(wheel))
        self.fill()

    def environment(self, name: str) -> Path:
        """Return the python of a fresh environment; all but the first see what the first holds."""
        venv.create(self.home / name, with_pip=False)
        (site,) = (self.home / name / "lib").glob("*/site-packages")
        if name != "base":
            (base,) = (self.home / "base" / "lib").glob("*/site-packages")
            (site / "base.pth").write_text(str(base))
        return self.home / name / "bin" / "python"

    def install(self, python: Path, what: str) -> None:
        command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", what]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if "(from versions: none)" in done.stderr:
            pytest.skip("pip reaches no index")
        assert done.returncode == 0, done.stderr

    def fill(self) -> None:
        """Write what the commands read."""
        texts = "\n\n".join(f"The cat saw {number} birds and {2 * number} trees." for number in range(40))
        written = {
            "series.toml": SERIES,
            "texts.toml": TEXTS,
            "text.txt": texts,
            "pictures.toml": PICTURES,
            "client.py": LINEAR_CLIENT,
            "vit_client.py": TRANSFORMERS_CLIENT,
            "sent.safetensors": "",
        }
        for name, text in written.items():
            (self.folder / name).write_text(text)
        for number in range(24):
            folder = self.folder / "pictures" / f"class {number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (10 * number, 255 - 10 * number, 40)).save(folder / f"{number}.png")
        self.run(self.base, "-m", "fedsim", "run", "series.toml")  # for export

    def run(self, python: Path, *arguments: str, code: int = 0) -> str:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        command = [str(python), *arguments]
        done = subprocess.run(command, cwd=self.folder, env=inherited, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    return Alone(tmp_path_factory.mktemp("extras"))


def test_every_extra_has_a_command_that_needs_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert NEEDS.keys() | OF_THE_REPOSITORY == project["optional-dependencies"].keys()


@pytest.mark.parametrize("extra", NEEDS)
def test_an_extra_alone_is_enough_for_what_needs_it(alone: Alone, extra: str) -> None:
    command = NEEDS[extra] if extra == "demo" else ("-m", "fedsim", *NEEDS[extra])
    if NEEDS[extra][0] in ("run", "tune", "audit"):
        command = (*command, "--out", f"results/{extra}")
    python = alone.environment(extra)
    if extra in BESIDE:
        alone.install(python, f"fedsim-privacy[{BESIDE[extra]}]")
    told = alone.run(python, *command, code=2)
    assert f"pip install 'fedsim-privacy[{extra}]'" in told.replace('"', "'")
    assert "Traceback" not in told
    alone.install(python, f"fedsim-privacy[{extra}]")
    if extra == "audit":
        alone.run(python, "-c", CAPTURES)
    alone.run(python, *command)


def _container() -> dict[str, str]:
    lines = (ROOT / "Containerfile").read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))


def test_the_steps_of_the_container_file_give_a_report(installed: Installed) -> None:
    steps = _container()
    (extra,) = re.findall(r"pip install --no-cache-dir '/src\[(\w+)\]'", steps["RUN"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert extra in project["optional-dependencies"]
    assert json.loads(steps["ENTRYPOINT"]) == ["fedsim"]
    (installed.folder / "quickstart.toml").unlink(missing_ok=True)  # a file of that name comes before the shipped one
    told = installed.fedsim(*json.loads(steps["CMD"]), *(part for one in FEW for part in ("--set", one)))
    assert "Report: results/00_quickstart/report.html" in told


@pytest.mark.skipif(BUILDER is None, reason="no podman and no docker")
def test_the_container_is_built_and_runs_the_quickstart(tmp_path: Path) -> None:
    assert BUILDER is not None
    subprocess.run([BUILDER, "build", "-t", "fedsim-test", "-f", "Containerfile", "."], cwd=ROOT, check=True)
    command = [BUILDER, "run", "--rm", "-v", f"{tmp_path}:/work", "fedsim-test", *json.loads(_container()["CMD"])]
    subprocess.run([*command, *(part for one in FEW for part in ("--set", one))], check=True)
    assert (tmp_path / "results" / "00_quickstart" / "report.html").exists()
