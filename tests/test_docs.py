"""The documentation is true: its commands run, and every link, path, module and command that it names exists.

A fenced block marked ``sh test`` or ``python test`` runs, in the order of the guides and in one folder. Any other block
of commands says what it needs. ``python -m pytest tests/test_docs.py -k links`` checks the names alone.
"""

import multiprocessing
import os
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import typer.main

from experiments import evaluate as evaluate  # imported before the commands fork
from experiments.benchmark.__main__ import named
from proteinlm import cli
from proteinlm.errors import InputError
from proteinlm.launch import entry
from proteinlm.training import finetuning as finetuning
from proteinlm.training import pretraining as pretraining
from tests.runs import ROOT

GUIDES = [
    ROOT / "README.md",
    *(
        ROOT / "docs/guide" / f"{name}.md"
        for name in (
            "pretraining",
            "fine_tuning",
            "your_own_data",
            "inference",
            "alignments",
            "many_gpus",
            "reproduce_table7",
        )
    ),
]
"""In the order in which their blocks run: later ones use the models of earlier ones."""
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("experiments/**/*.md")]
    if ".venv" not in path.parts
)
NEEDS = re.compile(r"(?:needs|takes|downloads) \w+")
"""What a block of commands that does not run says: ``needs a GPU``, ``takes 20 minutes``, ``downloads 8 GB``."""
HYDRA = ("pretrain", "finetune", "evaluate", "row", "benchmark")


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    runs: bool
    text: str
    output: str | None
    """The ``text`` block right after it."""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    fence = re.compile(r"^```(\w+)( test)?\n(.*?)^```(?:\n\n```text\n(.*?)^```)?", re.MULTILINE | re.DOTALL)
    return [
        Block(page, text[: found.start()].count("\n") + 1, found[1], bool(found[2]), found[3], found[4])
        for found in fence.finditer(text)
    ]


def is_run(block: Block) -> bool:
    return block.runs or (block.language == "python" and block.page in GUIDES)


RUNNING = [block for page in GUIDES for block in blocks(page) if is_run(block)]


class Session:
    """One folder in which the blocks run one after the other, each once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.outcomes: list[tuple[int, str]] = []

    def outcome(self, number: int) -> tuple[int, str]:
        """Exit status and output of the block of this number, after all before it."""
        while len(self.outcomes) <= number:
            block = RUNNING[len(self.outcomes)]
            with (self.folder / "output").open("w+") as output:
                steps = [block.text] if block.language == "python" else pieces(block.text)
                status = next(filter(None, (self._run(block.language, step, output.fileno()) for step in steps)), 0)
                output.seek(0)
                self.outcomes.append((status, output.read()))
        return self.outcomes[number]

    def _run(self, language: str, text: str, output: int) -> int:
        """Exit status of code or commands in a fork of this process, which has imported everything that they need."""
        forked = multiprocessing.get_context("fork").Process(target=self._child, args=(language, text, output))
        forked.start()
        forked.join()
        assert forked.exitcode is not None
        return forked.exitcode

    def _child(self, language: str, text: str, output: int) -> None:
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        os.chdir(self.folder)
        sys.path.insert(0, str(ROOT))
        os.environ["PYTHONPATH"] = str(ROOT)
        os.environ["PROTEINLM_CACHE"] = str(self.folder / "cache")
        words = shlex.split(text, comments=True) if language == "sh" else []
        if language == "python":
            exec(compile(text, "block", "exec"), {"__name__": "__main__"})
        elif words[0] == "proteinlm":
            sys.argv = words
            cli.main()
        elif words[:2] == ["python", "-m"]:
            sys.argv = words[2:]
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)
        else:
            os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            os.execvp("bash", ["bash", "-euo", "pipefail", "-c", text])


def pieces(text: str) -> list[str]:
    """The commands of the suite in a block, each by itself, and what is between them."""
    parts = re.split(r"^((?:proteinlm|python -m experiments\.).*?(?<!\\)\n)", text, flags=re.MULTILINE | re.DOTALL)
    return [part.replace("\\\n", " ") if number % 2 else part for number, part in enumerate(parts) if part.strip()]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return Session(tmp_path_factory.mktemp("guides"))


@pytest.mark.parametrize("number", range(len(RUNNING)), ids=[str(block) for block in RUNNING])
def test_a_marked_block_runs_and_prints_what_the_page_shows(session: Session, number: int):
    block = RUNNING[number]
    status, output = session.outcome(number)
    assert status == 0, f"{block}\n{output}"
    if block.output is not None:
        assert output == block.output
    commented = [
        line.split("  # ")[1].split(":")[0]
        for line in block.text.splitlines()
        if line.startswith("print(") and "  # " in line
    ]
    assert not commented or output.splitlines() == commented


def test_the_guides_have_blocks_that_run():
    assert {block.page for block in RUNNING} == set(GUIDES)


def test_commands_that_do_not_run_say_what_they_need():
    silent = [
        str(block)
        for page in GUIDES
        for block in blocks(page)
        if block.language == "sh" and not block.runs and not NEEDS.search(block.text)
    ]
    assert not silent


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_and_modules_in_backticks_exist(page: Path):
    missing = [name for name in backticks(page) if not exists(name, page)]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path):
    unknown = []
    for command in commands(page):
        try:
            check(command)
        except LookupError as error:
            unknown.append(f"{command}: {error}")
    assert not unknown


def test_hydra_commands_compose():
    """Overrides of pages that nobody runs, too, name knobs that there are and values that are allowed."""
    composed, wrong = set(), []
    for page in PAGES:
        for stage, overrides in filter(None, map(hydra, commands(page))):
            if (stage, *overrides) not in composed:
                composed.add((stage, *overrides))
                try:
                    entry.compose(stage, overrides)
                except InputError as error:
                    wrong.append(f"{page.name}: {stage} {' '.join(overrides)}: {error}")
    assert not wrong
    assert len(composed) > 20


def hydra(command: str) -> tuple[str, list[str]] | None:
    """Entry point and overrides of a Hydra command; None for another, and for one with a placeholder as its choice."""
    words = shlex.split(command.replace("python -m experiments.", "proteinlm "), comments=True)
    stage = words[1] if words[0] == "proteinlm" and len(words) > 1 else ""
    if stage not in HYDRA or re.search(r"\.\.\.|task=(TASK|NAME)", command):
        return None
    typed = [named(word) for word in words[2:]]
    if "-m" in typed:  # of several values the first
        typed = [word.split(",")[0] for word in typed if "glob(" not in word]
    overrides = [word for word in typed if "=" in word and not word.startswith("hydra.") and "glob(" not in word]
    if stage in ("finetune", "evaluate") and not any(word.startswith(("model=", "model.path=")) for word in overrides):
        overrides.append("model=tiny")
    if stage == "evaluate" and not any(word.startswith("split=") for word in overrides):
        overrides.append("split=valid")
    if stage == "benchmark" and not any(word.startswith("benchmark=") for word in overrides):
        overrides.append("benchmark=flip/gb1")
    if stage == "pretrain":
        overrides.append("name=of_a_page")  # which is the model's otherwise, where Hydra runs
    return stage, overrides


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


@cache
def anchors(file: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    titles = re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```", "", file.read_text(), flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    plain = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return {title.replace(" ", "-") for title in plain}


def backticks(page: Path) -> Iterator[str]:
    """The names in backticks that look like a path in the repository, or like a module."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for name in re.findall(r"`([^`\s]+)`", text):
        if re.search(r"[A-Z<>{}$~=]|\.\.\.", name) and "README" not in name:
            continue
        in_repository = name.startswith(("proteinlm/", "experiments/", "conf/", "docs/", "examples/", "tests/"))
        is_source = re.fullmatch(r"[\w/*]+/[\w*]+\.(py|yaml|md|toml)", name)
        is_module = re.fullmatch(r"(proteinlm|experiments)(\.\w+)+", name)
        if in_repository or is_source or is_module:
            yield name


def exists(name: str, page: Path) -> bool:
    if "/" in name:
        return any(any(home.glob(name.rstrip("/"))) for home in (ROOT, ROOT / "proteinlm", page.parent))
    *folders, last = name.split(".")
    place, parent = ROOT.joinpath(*folders, last), ROOT.joinpath(*folders)
    if place.is_dir() or place.with_suffix(".py").is_file():
        return True
    home = parent.with_suffix(".py") if parent.with_suffix(".py").is_file() else parent / "__init__.py"
    return home.is_file() and re.search(rf"\b{last}\b", home.read_text()) is not None


def commands(page: Path) -> Iterator[str]:
    """The command lines of a page, in its blocks and in backticks."""
    for block in blocks(page):
        if block.language == "sh":
            for line in re.sub(r"\\\n\s*", "", block.text).splitlines():
                if line.startswith(("make ", "proteinlm ", "python -m experiments")):
                    yield line
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for name in re.findall(r"`((?:make|proteinlm|python\s+-m\s+experiments)[\s.][^`]*)`", text):
        if not re.fullmatch(r"proteinlm(\.\w+)+", name):
            yield " ".join(name.split())


def check(command: str) -> None:
    """`LookupError` for a target, command or option that there is not."""
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        for word in words[1:]:
            if "=" not in word and word not in targets:
                raise LookupError(f"no target {word}")
    elif words[0] == "python":
        module = ROOT / words[2].replace(".", "/")
        if not module.with_suffix(".py").is_file() and not (module / "__main__.py").is_file():
            raise LookupError(f"no module {words[2]}")
    else:
        found = typer.main.get_command(cli.app)
        for word in words[1:]:
            known = getattr(found, "commands", None)  # of a group
            if known is not None and not word.startswith("-"):
                if word not in known:
                    raise LookupError(f"no command {word}")
                found = known[word]
            elif found.context_settings.get("ignore_unknown_options"):
                return  # the command reads its words itself
            elif word.startswith("--") and word != "--help":
                options = {option for each in found.params for option in each.opts}
                if word.split("=")[0] not in options:
                    raise LookupError(f"no option {word}")


def test_the_design_page_has_the_layers_that_are_checked():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    rows = re.findall(r"^\| \d+ \| ([^|]+) \|", (ROOT / "docs/design.md").read_text(), re.MULTILINE)
    assert [set(re.findall(r"`(\w+)", row)) for row in rows] == [set(layer.split(" | ")) for layer in layers]


def test_the_front_page_and_the_guides_are_short():
    lengths = {str(page.relative_to(ROOT)): len(page.read_text().splitlines()) for page in GUIDES}
    assert lengths.pop("README.md") <= 120
    assert max(lengths.values()) < 150


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/results/*.md")), ids=lambda page: page.stem)
def test_a_result_has_its_date_commit_and_machine(page: Path):
    text = page.read_text()
    assert re.search(r"^\| date and commit \| 20\d\d-\d\d-\d\d, recorded in [0-9a-f]{7}\b", text, re.MULTILINE)
    assert re.search(r"^\| machine \| .+ \|$", text, re.MULTILINE)
    assert f"({page.relative_to(ROOT / 'docs')})" in (ROOT / "docs/index.md").read_text()
