"""Put small faults into a module, one at a time, and see whether its tests notice: ``make mutants``.

The modules are those whose numbers people publish, each with the tests that hold it (`TESTS`). A mutant lives in a fork of
a process that has already imported what the tests need from elsewhere, and replaces the module while it is imported. So
constants and decorated functions of the module are mutated as well, which mutmut leaves out, and no mutant has to import
torch anew, as under cosmic-ray. A test that starts a Python of its own does not see the mutant there.

`equal_mutants.toml` lists the faults that change nothing a test could see, each with the reason. They are not run.
"""

import argparse
import ast
import contextlib
import copy
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import os
import random
import signal
import sys
import time
import tomllib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
EQUAL = Path(__file__).with_name("equal_mutants.toml")
PACKING = ("tests/data/test_packing.py", "tests/data/test_masking.py")
LOSSES = ("tests/tasks/test_losses.py", "tests/tasks/test_targets.py")
OPTIM = ("tests/optim", "tests/models/test_mup.py")
LEAKAGE = ("tests/data/test_leakage.py",)
HEADS = (
    *("tests/models/test_heads.py", "tests/models/test_pair_heads.py"),
    "--deselect=tests/models/test_pair_heads.py::test_memory_of_a_training_step_is_linear_in_length",  # in its own Python
)
PLANNER = (
    "tests/planner/test_plan.py",
    "--deselect=tests/planner/test_plan.py::test_the_command_line_needs_no_torch",  # in a Python of its own
)
CONTACTS = ("tests/inference/test_contacts.py",)
TESTS: dict[str, tuple[str, ...]] = {
    "proteinlm/data/batches/masking.py": PACKING,
    "proteinlm/data/batches/packing.py": PACKING,
    "proteinlm/data/batches/randomness.py": PACKING,
    "proteinlm/data/batches/schedule.py": PACKING,
    "proteinlm/data/similarity/alignment.py": LEAKAGE,
    "proteinlm/data/similarity/clusters.py": ("tests/data/test_clusters.py",),
    "proteinlm/data/similarity/leakage.py": LEAKAGE,
    "proteinlm/data/similarity/search.py": LEAKAGE,
    "proteinlm/inference/attention_contacts.py": CONTACTS,
    "proteinlm/inference/likelihoods.py": ("tests/inference/test_likelihoods.py",),
    "proteinlm/interop/huggingface.py": ("tests/interop/test_huggingface.py",),
    "proteinlm/interop/unirep.py": ("tests/interop/test_unirep.py",),
    "proteinlm/models/published.py": ("tests/models/test_published.py",),
    "proteinlm/interop/megatron.py": ("tests/interop/test_megatron.py",),
    "proteinlm/models/heads/base.py": HEADS,
    "proteinlm/models/heads/language_model.py": (*HEADS, "tests/models/test_parity.py", "tests/models/test_mup.py"),
    "proteinlm/models/heads/pair.py": HEADS,
    "proteinlm/models/heads/protein.py": HEADS,
    "proteinlm/models/heads/residue.py": HEADS,
    "proteinlm/models/mup.py": OPTIM,
    "proteinlm/models/packed.py": (*HEADS, "tests/models/baselines/test_states.py"),
    "proteinlm/optim/muon.py": OPTIM,
    "proteinlm/optim/optimizer.py": OPTIM,
    "proteinlm/planner/memory.py": PLANNER,
    "proteinlm/planner/plan.py": PLANNER,
    "proteinlm/records/bootstrap.py": ("tests/records/test_bootstrap.py",),
    "proteinlm/records/contact_map.py": ("tests/records/test_contact_map.py",),
    "proteinlm/tasks/classification.py": LOSSES,
    "proteinlm/tasks/contact.py": LOSSES,
    "proteinlm/tasks/metrics.py": ("tests/tasks/test_metrics.py",),
    "proteinlm/tasks/regression.py": LOSSES,
    "experiments/table7/claims.py": ("tests/experiments/test_claims.py",),
}
"""The tests of each module: files or folders, and options of pytest."""
ELSEWHERE = (
    "hydra",
    "hypothesis",
    "lightning.pytorch",
    "lmdb",
    "matplotlib.pyplot",
    "peft",
    "psutil",
    "pyarrow.compute",
    "safetensors.torch",
    "scipy.stats",
    "torch.distributed.checkpoint",
    "torch.testing",
    "torchmetrics",
    "transformers",
    "typer.testing",
)
"""What tests import that is not ours, and that takes a while."""
SWAPPED = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
WORDS = {one: other for pair in (("left", "right"), ("mean", "sum")) for one, other in (pair, pair[::-1])}
"""Strings that choose a computation."""
FUNCTIONS = {
    one: other
    for pair in (("min", "max"), ("minimum", "maximum"), ("any", "all"), ("argmin", "argmax"), ("floor", "ceil"))
    for one, other in (pair, pair[::-1])
}


class Mutant(NamedTuple):
    """A module with one fault in it."""

    line: int
    before: str
    after: str
    tree: ast.Module
    source: str
    """The line, without its indent."""
    fault: str
    """The line with the fault, up to the end of what is changed where that reaches beyond the line."""


@dataclass(frozen=True)
class Verdict:
    """What the tests said of the mutants of one module."""

    module: str
    noticed: int
    equal: int
    """Those of which `equal_mutants.toml` says that they change nothing."""
    survivors: list[Mutant]
    seconds: float

    @property
    def mutants(self) -> int:
        return self.noticed + self.equal + len(self.survivors)


def mutants(source: str) -> Iterator[Mutant]:
    """Every mutant of a module, in the order of its lines.

    Left alone are docstrings, annotations, decorators, imports, assertions and what is raised: they compute nothing.
    """
    tree, lines = ast.parse(source), source.splitlines()
    for parent, field, place in sorted(_sites(tree), key=lambda site: _line(_at(*site))):
        node = _at(parent, field, place)
        for fault in _faults(node):
            _put(parent, field, place, fault)
            changed = copy.deepcopy(tree)
            _put(parent, field, place, node)
            line, before, after = _line(node), _short(node), _short(fault)
            tree_with_fault = ast.fix_missing_locations(changed)
            yield Mutant(
                line, before, after, tree_with_fault, lines[line - 1].strip(), _faulty_line(lines, node, after)
            )


def examine(
    module: str, tests: tuple[str, ...], sample: int | None = None, seed: int = 0, line: int | None = None
) -> Verdict:
    """Let the tests of a module meet `sample` of its mutants, or all of them; what survives is printed as it is found.

    With `line`, only the mutants of that line. `RuntimeError` if the tests do not pass without a fault. A mutant may take
    five times as long as they then take, and 20 seconds more; one that takes longer is noticed.
    """
    began = time.monotonic()
    every = list(mutants((ROOT / module).read_text()))
    listed = equal_mutants(module)
    for source, fault in listed - {(mutant.source, mutant.fault) for mutant in every}:
        print(f"{EQUAL.name}: {module} has no line {source!r} any more that could become {fault!r}", flush=True)
    every = [mutant for mutant in every if line in (None, mutant.line)]
    kept = sorted(random.Random(seed).sample(range(len(every)), min(sample or len(every), len(every))))
    if not _passes(module, None, tests, limit=1800):
        raise RuntimeError(f"{module}: {' '.join(tests)} fail without a fault; run them with pytest to see why")
    limit = 20 + 5 * (time.monotonic() - began)
    survivors, equal = [], 0
    for mutant in (every[place] for place in kept):
        if (mutant.source, mutant.fault) in listed:
            equal += 1
        elif _passes(module, mutant.tree, tests, limit):
            survivors.append(mutant)
            print(f"{module}:{mutant.line}: {mutant.before}  ->  {mutant.after}", flush=True)
    noticed = len(kept) - equal - len(survivors)
    return Verdict(module, noticed, equal, survivors, time.monotonic() - began)


def equal_mutants(module: str) -> set[tuple[str, str]]:
    """The faults of a module that change nothing, as the line and the line with the fault."""
    return {(each["line"], each["fault"]) for each in tomllib.loads(EQUAL.read_text()).get(module, [])}


def warm_up() -> None:
    """Import what tests need from elsewhere, pytest's plugins too; make hypothesis try the same examples each time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ELSEWHERE:
            importlib.import_module(name)
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main(["--version", "--version"])  # which also lists the plugins
    hypothesis = sys.modules["hypothesis"]
    hypothesis.settings.register_profile("mutants", derandomize=True, database=None, deadline=None)
    hypothesis.settings.load_profile("mutants")


class _Faulty(importlib.abc.MetaPathFinder):
    """Finds one module, with a fault in it."""

    def __init__(self, file: Path, tree: ast.Module) -> None:
        self.file, self.tree = file, tree
        self.name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        assert self.name not in sys.modules, "it is imported already"

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None):
        if name != self.name:
            return None
        tree = self.tree

        class Loader(importlib.machinery.SourceFileLoader):
            def get_code(self, fullname: str) -> CodeType:
                return compile(tree, self.path, "exec", dont_inherit=True)

        return importlib.util.spec_from_file_location(name, self.file, loader=Loader(name, str(self.file)))


def _passes(module: str, tree: ast.Module | None, tests: tuple[str, ...], limit: float) -> bool:
    """Whether `tests` pass in a fork where `module` is `tree`; not if that takes more than `limit` seconds."""
    child = os.fork()
    if not child:
        gc.freeze()  # pytest collects five times at its end, each time through all that the parent has imported
        os.setsid()
        silent = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(silent, descriptor)
        if tree is not None:
            sys.meta_path.insert(0, _Faulty(ROOT / module, tree))
        options = ("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow", f"--rootdir={ROOT}")
        os._exit(int(pytest.main([*options, *(test if test[0] == "-" else str(ROOT / test) for test in tests)]) != 0))
    end = time.monotonic() + limit
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.02)
    return ended[1] == 0


def _sites(node: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Every node below `node` that may be changed, as its parent, the field it is in and its place in that field."""
    ignored = {"annotation", "returns", "decorator_list", "type_params", "format_spec"}
    for field, value in ast.iter_fields(node):
        if field in ignored:
            continue
        children = enumerate(value) if isinstance(value, list) else [(None, value)]
        for place, child in children:
            if not isinstance(child, ast.AST) or isinstance(
                child, ast.Raise | ast.Assert | ast.Import | ast.ImportFrom
            ):
                continue
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):  # a docstring
                continue
            yield node, field, place
            yield from _sites(child)


def _faults(node: ast.AST) -> Iterator[ast.AST]:
    """What a slip might have made of one node."""
    changed = copy.deepcopy(node)
    match changed:
        case ast.Compare(ops=[operator]):
            changed.ops = [SWAPPED[type(operator)]()]
            yield changed
        case ast.BinOp(left=left, op=operator) if type(operator) in SWAPPED and not _is_text(left):
            changed.op = SWAPPED[type(operator)]()
            yield changed
        case ast.AugAssign(op=operator) if type(operator) in SWAPPED:
            changed.op = SWAPPED[type(operator)]()
            yield changed
        case ast.BoolOp(op=operator):
            changed.op = SWAPPED[type(operator)]()
            yield changed
        case ast.UnaryOp(op=ast.USub() | ast.Not() | ast.Invert(), operand=operand):
            yield operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=float(value)):
            yield ast.Constant(value / 2 if value else 1.0)
        case ast.Constant(value=str(value)) if value in WORDS:
            yield ast.Constant(WORDS[value])
        case ast.Call(func=ast.Name(id=name)) if name in FUNCTIONS:
            changed.func = ast.Name(FUNCTIONS[name], ast.Load())
            yield changed
        case ast.Call(func=ast.Attribute(attr=name) as function) if name in FUNCTIONS:
            function.attr = FUNCTIONS[name]
            yield changed
        case ast.Expr(value=ast.Call()):
            yield ast.Pass()
        case (
            ast.If(test=ast.Name() | ast.Attribute() | ast.Call() as test)
            | ast.IfExp(test=ast.Name() | ast.Attribute() | ast.Call() as test)
        ):
            changed.test = ast.UnaryOp(ast.Not(), test)
            yield changed


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _at(parent: ast.AST, field: str, place: int | None) -> ast.AST:
    value = getattr(parent, field)
    return value if place is None else value[place]


def _put(parent: ast.AST, field: str, place: int | None, node: ast.AST) -> None:
    if place is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[place] = node


def _faulty_line(lines: list[str], node: ast.AST, fault: str) -> str:
    """The line where `node` begins, with `fault` in its place."""
    assert isinstance(node, ast.expr | ast.stmt)
    line = lines[node.lineno - 1].encode()  # columns count bytes
    rest = line[node.end_col_offset :] if node.lineno == node.end_lineno else b""
    return (line[: node.col_offset] + fault.encode() + rest).decode(errors="replace").strip()


def _line(node: ast.AST) -> int:
    return getattr(node, "lineno", 0)


def _short(node: ast.AST) -> str:
    """The first line of a node's source, in 90 characters."""
    line = ast.unparse(ast.fix_missing_locations(copy.deepcopy(node))).splitlines()[0]
    return line if len(line) <= 90 else line[:87] + "..."


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=str(__doc__).splitlines()[0])
    parser.add_argument(
        "modules",
        nargs="*",
        metavar="MODULE",
        help="files, or the beginning of their paths, or one line as FILE:LINE; default: all",
    )
    parser.add_argument("--sample", type=int, help="so many mutants of each module, drawn at random; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of that draw")
    options = parser.parse_args(arguments)
    chosen: list[tuple[str, int | None]] = []
    for asked in options.modules or [""]:
        beginning, _, line = asked.partition(":")
        chosen += [(module, int(line) if line else None) for module in TESTS if module.startswith(beginning)]
    if not chosen:
        parser.error(f"no module begins with {' or '.join(options.modules)}; there are {', '.join(TESTS)}")
    os.chdir(ROOT)
    warm_up()
    verdicts = [examine(module, TESTS[module], options.sample, options.seed, line) for module, line in chosen]
    print("\n| module | mutants | equal | noticed | share | seconds |\n|:--|--:|--:|--:|--:|--:|")
    for verdict in verdicts:
        share = verdict.noticed / max(1, verdict.mutants - verdict.equal)
        numbers = f"{verdict.mutants} | {verdict.equal} | {verdict.noticed} | {share:.2f} | {verdict.seconds:.0f}"
        print(f"| {verdict.module} | {numbers} |")


if __name__ == "__main__":
    main()
