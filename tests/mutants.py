"""Changes one place of a source file at a time and counts the changes that its tests do not notice.

`make mutants FILE=fedsim/threat/observe.py` runs it; docs/testing.md says how to read what it prints. The changes are
cosmic-ray's, one mended, and one of our own. Each is made in a copy of the project and tried in a process of its own,
which starts from one that has the large packages loaded.
"""

from __future__ import annotations

import argparse
import difflib
import gc
import importlib
import importlib.util
import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, NoReturn

import parso
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.exceptions import CosmicRayTestingException
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.plugins import get_operator
from parso.python.tree import Name

# What a slip of the hand could make. Others of cosmic-ray's swaps, such as + for <<, raise an error at once, and a
# reversed condition is what its AddNot makes.
_BINARY = (
    "Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Div FloorDiv_Mul Mod_FloorDiv Pow_Mul RShift_LShift LShift_RShift "
    "BitOr_BitAnd BitAnd_BitOr BitXor_BitAnd"
)
_COMPARISON = "Eq_NotEq NotEq_Eq Lt_LtE Lt_Gt LtE_Lt LtE_GtE Gt_GtE Gt_Lt GtE_Gt GtE_LtE Is_IsNot IsNot_Is"
_OTHER = (
    "ReplaceUnaryOperator_Delete_Not ReplaceUnaryOperator_Delete_USub ReplaceUnaryOperator_Delete_Invert AddNot "
    "ReplaceTrueWithFalse ReplaceFalseWithTrue ReplaceAndWithOr ReplaceOrWithAnd ReplaceBreakWithContinue "
    "ReplaceContinueWithBreak NumberReplacer RemoveDecorator ZeroIterationForLoop"
)
NAMES = (
    *(f"ReplaceBinaryOperator_{swap}" for swap in _BINARY.split()),
    *(f"ReplaceComparisonOperator_{swap}" for swap in _COMPARISON.split()),
    *_OTHER.split(),
)
_DECLARING = ("dataclass", "overload", "final", "override")  # decorators that state what no run shows
_LIMIT_BASE, _LIMIT_TIMES = 10.0, 4.0  # a mutant's time: seconds beside so many times what the unchanged file takes
_POLL = 0.02
_ENDING = (signal.SIGINT, signal.SIGTERM)


class Mistake(Exception):
    """What the user is told."""


class DropStatement(Operator):
    """Replaces a statement that only calls something, or that adds to a variable, by `pass`."""

    def mutation_positions(self, node: Any) -> Any:
        if node.type != "simple_stmt":
            return
        first = node.children[0]
        is_call = first.type in ("atom_expr", "power") and first.children[-1].get_code().strip().endswith(")")
        is_augmented = first.type == "expr_stmt" and first.children[1].get_code().strip() in ("+=", "-=", "*=", "/=")
        if is_call or is_augmented:
            yield first.start_pos, first.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        node.children[0] = parso.parse(node.children[0].get_first_leaf().prefix + "pass")
        return node

    @classmethod
    def examples(cls) -> Any:
        return (Example("check(x)\n", "pass\n"), Example("x += 1\n", "pass\n"))


class ExceptionReplacer(Operator):
    """Replaces an exception that is caught by one that nobody raises; cosmic-ray's fails on names with dots."""

    def mutation_positions(self, node: Any) -> Any:
        return ((name.start_pos, name.end_pos) for name in self._caught(node))

    def mutate(self, node: Any, index: int) -> Any:
        name = self._caught(node)[index]
        siblings = name.parent.children
        prefix = name.get_first_leaf().prefix
        siblings[siblings.index(name)] = Name(CosmicRayTestingException.__name__, name.start_pos, prefix)
        return node

    @staticmethod
    def _caught(node: Any) -> list[Any]:
        if node.type != "except_clause":
            return []
        caught = node.children[1]
        if caught.type == "atom":
            caught = caught.children[1]
        return caught.children[::2] if caught.type == "testlist_comp" else [caught]

    @classmethod
    def examples(cls) -> Any:
        before = "try:\n    x\nexcept {}:\n    y\n"
        return (
            Example(before.format("OSError as e"), before.format("CosmicRayTestingException as e")),
            Example(before.format("a.Error"), before.format("CosmicRayTestingException")),
            Example(before.format("(a.Error, OSError)"), before.format("(CosmicRayTestingException, OSError)")),
        )


@dataclass(frozen=True)
class Mutant:
    """One change of a file."""

    operator: str
    line: int
    column: int
    code: str


@dataclass(frozen=True)
class Trial:
    """What became of a mutant: 'killed', 'survived' or 'timed out'."""

    operator: str
    line: int
    outcome: str
    seconds: float
    diff: str


@dataclass(frozen=True)
class Tally:
    """What became of the mutants of a file; a change that makes the tests endless is noticed too."""

    file: str
    tests: tuple[str, ...]
    trials: tuple[Trial, ...]

    def count(self, outcome: str) -> int:
        return Counter(trial.outcome for trial in self.trials)[outcome]

    @property
    def noticed(self) -> int:
        return len(self.trials) - self.count("survived")

    def row(self) -> str:
        low, high = wilson(self.noticed, len(self.trials))
        counts = [self.count(outcome) for outcome in ("killed", "timed out", "survived")]
        cells = [
            self.file,
            len(self.trials),
            *counts,
            f"{self.noticed / len(self.trials):.2f}",
            f"{low:.2f}-{high:.2f}",
        ]
        return "| " + " | ".join(str(cell) for cell in cells) + " |"


HEADER = (
    "| file | n | killed | timed out | survived | rate | 95 % interval |\n| --- | --- | --- | --- | --- | --- | --- |"
)


def wilson(noticed: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval. fedsim's own must not be loaded here: the mutants would find it loaded."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate, spread = noticed / n, z**2 / n
    half = z * (rate * (1 - rate) / n + spread / (4 * n)) ** 0.5
    return max((rate + spread / 2 - half) / (1 + spread), 0.0), min((rate + spread / 2 + half) / (1 + spread), 1.0)


def mutants(source: str) -> list[Mutant]:
    """Return every change of a file that still is Python, in the order of places."""
    operators = {name: get_operator(f"core/{name}")() for name in NAMES}
    operators |= {"DropStatement": DropStatement(), "ExceptionReplacer": ExceptionReplacer()}
    tree = get_ast(source)
    found = []
    for name, operator in operators.items():
        places = ((node, start) for node in ast_nodes(tree) for start, _ in operator.mutation_positions(node))
        for occurrence, (node, (line, column)) in enumerate(places):
            code = None if _is_declaration(node) else mutate_code(source, operator, occurrence)
            if code is not None and code != source and _is_python(code):
                found.append(Mutant(name, line, column, code))
    return sorted(found, key=lambda mutant: (mutant.line, mutant.column, mutant.operator))


def _is_declaration(node: Any) -> bool:
    """Tell whether a node states what no run shows: a type, `@dataclass(frozen=True)`, `strict=True`."""
    child, parent = node, node.parent
    while parent is not None:
        is_type = (
            (parent.type == "annassign" and parent.children[1] is child)
            or (parent.type == "tfpdef" and parent.children[-1] is child)
            or (parent.type == "funcdef" and parent.annotation is child)
        )
        is_strict = parent.type == "argument" and parent.children[0].get_code().strip() == "strict"
        if is_type or is_strict or _declares(child) or _declares(parent):
            return True
        child, parent = parent, parent.parent
    return False


def _declares(node: Any) -> bool:
    if node.type == "decorator":
        return node.children[1].get_code().strip().split("(")[0].split(".")[-1] in _DECLARING
    return node.type == "if_stmt" and node.children[1].get_code().strip() == "TYPE_CHECKING"


def _is_python(code: str) -> bool:
    try:
        compile(code, "mutant", "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return True


def sample(every: Sequence[Mutant], size: int | None, seed: str) -> list[Mutant]:
    """Return a change at each of `size` places drawn without replacement; all changes of all places for None."""
    if size is None:
        return list(every)
    places = defaultdict(list)
    for mutant in every:
        places[mutant.line, mutant.column].append(mutant)
    generator = random.Random(seed)
    samples = generator.sample(sorted(places), min(size, len(places)))
    return [generator.choice(places[place]) for place in sorted(samples)]


def tests_of(file: str, table: dict[str, list[str]]) -> list[str]:
    """Return the tests of a file: those of the table in pyproject.toml, else the mirrored one."""
    if not (Path(file).suffix == ".py" and Path(file).is_file()):
        raise Mistake(
            f"there is no source file {file!r}; name one from this folder on, as FILE=fedsim/threat/observe.py"
        )
    parts = Path(file).with_suffix("").parts
    rooms = parts[1:-1] if parts[0] == "fedsim" else parts[:-1]
    tests = table.get(file, [str(Path("tests", *rooms, f"test_{parts[-1].strip('_')}.py"))])
    missing = [test for test in tests if not Path(test).exists()]
    if missing:
        raise Mistake(
            f"the tests of {file} are not in {missing[0]}; name them under [tool.mutants.tests] in pyproject.toml"
        )
    return tests


def copy_project(folder: Path) -> None:
    """Copy what git knows of the working tree, with what is not committed yet."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(listing, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise Mistake("this folder is no checkout of git, which says what to copy; run git init in it") from error
    for name in filter(None, set(listed.split("\0"))):
        if Path(name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, folder / name)


def attempt(folder: Path, tests: Sequence[str], limit: float | None = None) -> tuple[int | None, float]:
    """Run tests in a process of their own; return its exit code, None past the limit, and the seconds it took."""
    shutil.rmtree(folder / ".hypothesis", ignore_errors=True)  # what one mutant failed on is not tried on the next
    started = time.monotonic()
    sys.stdout.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)  # else one between fork and try would leave the child alone
    child = os.fork()
    if child == 0:
        _become_pytest(folder, tests, writes_bytecode=limit is None)
    try:
        os.setpgid(child, child)  # as the child does: whoever comes first
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            seconds = time.monotonic() - started
            if done:
                return os.waitstatus_to_exitcode(status), seconds
            if limit is not None and seconds > limit:
                return None, seconds
            time.sleep(_POLL)
    finally:
        _end(child)


def _become_pytest(folder: Path, tests: Sequence[str], *, writes_bytecode: bool) -> NoReturn:
    code = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        os.chdir(folder)
        sys.path[0] = os.environ["PYTHONPATH"] = str(folder)
        sys.dont_write_bytecode = not writes_bytecode
        log = os.open(_log(folder), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        options = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
        code = importlib.import_module("pytest").main([*tests, *options])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(code))


def _log(folder: Path) -> Path:
    return folder.with_suffix(".log")


def _end(child: int) -> None:
    """End a child's process group, with what its tests left behind."""
    try:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        return


def measure(
    file: str, folder: Path, tests: Sequence[str], size: int | None, seed: int, limit: float | None = None
) -> Tally:
    """Try a file's mutants in a copy of the project, each for `limit` seconds, and print each that survives.

    Raises:
        Mistake: the tests fail, or find nothing to run, while the file is unchanged; or it has nothing to change.
    """
    source = Path(file).read_text(encoding="utf-8")
    chosen = sample(mutants(source), size, f"{seed} {file}")
    if not chosen:
        raise Mistake(f"{file} has nothing to change")
    code, seconds = attempt(folder, tests)
    if code != 0:
        raise Mistake(f"the tests of {file} do not pass while it is unchanged:\n{_log(folder).read_text()[-3000:]}")
    limit = limit or _LIMIT_BASE + _LIMIT_TIMES * seconds
    print(f"{file}: {len(chosen)} mutants, each at most {limit:.0f} s, by {' '.join(tests)}", flush=True)
    target = folder / file
    Path(importlib.util.cache_from_source(str(target))).unlink(missing_ok=True)
    trials = []
    try:
        for mutant in chosen:
            target.write_text(mutant.code, encoding="utf-8")
            trials.append(_trial(file, source, mutant, *attempt(folder, tests, limit)))
            if trials[-1].outcome == "survived":
                print(f"survived: {mutant.operator} at {file}:{mutant.line}\n{trials[-1].diff}", flush=True)
    except KeyboardInterrupt:
        if trials:
            print(f"{HEADER}\n{Tally(file, tuple(tests), tuple(trials)).row()}", flush=True)
        raise
    finally:
        target.write_text(source, encoding="utf-8")
    return Tally(file, tuple(tests), tuple(trials))


def _trial(file: str, source: str, mutant: Mutant, code: int | None, seconds: float) -> Trial:
    lines = difflib.unified_diff(source.splitlines(), mutant.code.splitlines(), file, file, n=1, lineterm="")
    outcome = {None: "timed out", 0: "survived"}.get(code, "killed")
    return Trial(mutant.operator, mutant.line, outcome, round(seconds, 2), "\n".join(lines) + "\n")


def main(arguments: Sequence[str]) -> int:
    """Measure the named files; return 2 for a user's mistake."""
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__)
    parser.add_argument("files", nargs="+", help="source files, from this folder on")
    parser.add_argument("--sample", type=_positive, help="places to change, one change each; all changes without it")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    parser.add_argument("--limit", type=float, help="seconds of a mutant; by default some times what its tests take")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args(arguments)
    for name in _ENDING:  # also where a shell ignores Ctrl-C for its background jobs
        signal.signal(name, signal.default_int_handler)
    try:
        tallies = _measure_all(options)
    except Mistake as mistake:
        print(mistake, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the working tree is as it was", file=sys.stderr)
        return 130
    print("\n".join([HEADER, *(tally.row() for tally in tallies)]))
    if options.json:
        options.json.write_text(json.dumps([asdict(tally) for tally in tallies], indent=1) + "\n", encoding="utf-8")
    return 0


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def _measure_all(options: argparse.Namespace) -> list[Tally]:
    settings = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8")).get("tool", {}).get("mutants", {})
    if options.json and not options.json.absolute().parent.is_dir():
        raise Mistake(f"no folder {str(options.json.parent)!r} for the results; make it, or change JSON")
    tests = {file: tests_of(file, settings.get("tests", {})) for file in options.files}
    if "prepare" in settings:
        runpy.run_path(settings["prepare"])["prepare"]()
    for package in settings.get("preload", []):
        importlib.import_module(package)
    gc.freeze()  # else a collection in each child would copy the pages that hold them
    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        folder = Path(temporary, "project")
        copy_project(folder)
        return [
            measure(file, folder, tests[file], options.sample, options.seed, options.limit) for file in options.files
        ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
