"""Every shipped config composes into a checked run, and a mistake is named in one line before anything is written."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from functools import cache
from itertools import cycle, product
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.sources_registry import SourcesRegistry
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf

from experiments.table7.published import TABLE7
from proteinlm.config import FAMILIES, ModelConfig, OptimConfig, ScaleConfig, TrainConfig, register_schema
from proteinlm.errors import InputError
from tests.models.test_backbone import PARAMETERS
from tests.runs import Command

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
ROWS = sorted(file.stem for file in (CONF / "experiment/table7").glob("*.yaml"))
BASELINES = [f"baselines={file.stem}" for file in (CONF / "experiment/baselines").glob("*.yaml")]
PROFILES = sorted(file.stem for file in (CONF / "profile").glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def read_files() -> Iterator[set[str]]:
    """The files that were composed of; each is parsed once for all tests."""
    names: set[str] = set()
    register_schema()
    with initialize_config_dir(str(CONF), version_base="1.3"), pytest.MonkeyPatch.context() as patched:
        files = SourcesRegistry.instance().resolve("file")
        parse = cache(files.load_config)

        def load(source: ConfigSource, config_path: str) -> ConfigResult:
            names.add(config_path.removesuffix(".yaml"))
            return deepcopy(parse(source, config_path))

        patched.setattr(files, "load_config", load)
        yield names


def options(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def composed(command: str, *overrides: str) -> Any:
    return OmegaConf.to_object(values(command, *overrides, *(["name=test"] if command == "pretrain" else [])))


@cache
def values(command: str, *overrides: str) -> DictConfig:
    """What a command line comes to, composed once."""
    return compose(command, list(overrides))


def test_there_are_exactly_the_ten_rows_of_the_paper():
    assert set(ROWS) == set(TABLE7)
    assert len(ROWS) == 10


@pytest.mark.parametrize("row", ROWS)
def test_a_row_sets_its_name_and_shape_and_nothing_else(row: str):
    values = OmegaConf.to_container(OmegaConf.load(CONF / f"experiment/table7/{row}.yaml"))
    assert values.keys() == {"name", "model"}
    assert values["name"] == row
    assert values["model"].keys() == {"hidden_size", "num_layers", "num_heads"}
    model = composed("row", f"experiment/table7={row}").model
    assert row == f"hidden-{model.hidden_size}-layer-{model.num_layers}-head-{model.num_heads}"
    assert model.parameters == PARAMETERS[model.hidden_size, model.num_layers, model.num_heads]


@pytest.mark.parametrize("data", ["synthetic", "files"])
@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_scales_every_row_and_has_a_budget_for_each_kind_of_data(profile: str, data: str):
    root = ["data.root=somewhere"] if data == "files" else []
    config = composed("row", f"profile={profile}", f"data={data}", *root)
    for hidden, layers, heads in (map(int, row.split("-")[1::2]) for row in ROWS):  # which is all that a row sets
        model = replace(config.model, hidden_size=hidden, num_layers=layers, num_heads=heads)
        scaled = replace(config, model=model).backbone
        assert scaled.hidden_size * config.scale.hidden_size == hidden
        assert scaled.head_dim >= 2
    full = config.scale == ScaleConfig()
    for task in config.finetune.values():  # full shapes are fine-tuned at less than a tenth of what suits small ones
        assert task.learning_rate <= 5e-5 if full else task.learning_rate >= 1e-3
        assert task.steps >= 10
    assert config.seeds == (3 if full else 1)


def test_the_word_on_tracking_is_heard_in_a_profile_that_has_one_of_its_own():
    assert composed("row", "experiment/table7=hidden-512-layer-32-head-8", "profile=smoke").tracking.backend == "csv"
    said = ("profile=smoke", "tracking=wandb")
    for words in (said, said[::-1]):
        assert composed("row", "experiment/table7=hidden-512-layer-32-head-8", *words).tracking.backend == "wandb"


def test_every_shipped_file_composes_under_its_command(read_files: set[str]):
    csv, root, start = "data.csv=somewhere", "data.root=somewhere", "model.path=somewhere"
    for profile, data in product(PROFILES, ("synthetic", "files")):
        composed("row", f"profile={profile}", f"data={data}", *([root] if data == "files" else []))
    alone = {group: cycle(options(group)) for group in ("profile", "tracking", "recipe", "launcher")}
    for row in ROWS:  # and with each an option of these groups, of which none has more
        composed("pretrain", f"experiment/table7={row}", *(f"{group}={next(names)}" for group, names in alone.items()))
    for row in (*(f"other={row}" for row in options("experiment/other")), *BASELINES):
        composed("pretrain", f"experiment/{row}")
    for strategy in options("strategy"):
        composed("pretrain", f"strategy={strategy}")
    for model in ("tiny", "small", "lstm"):
        composed("pretrain", f"model={model}", *(["task=next_residue"] if model == "lstm" else []))
    for task in set(options("task")) - {"masked_language_model", "next_residue"}:
        composed("finetune", f"task={task}", start, *([csv] if task == "custom" else []))
    for adapter in options("adapter"):
        composed("finetune", f"adapter={adapter}", start)
    composed("evaluate", "split=valid", start)
    composed("benchmark", "benchmark=flip/gb1")
    shipped = {str(file.relative_to(CONF).with_suffix("")) for file in CONF.rglob("*.yaml")}
    assert shipped - read_files == set()


def test_the_two_shapes_outside_the_table():
    released = composed("row", "experiment/other=hidden-1024-layer-16-head-16").model
    failing = composed("row", "experiment/other=hidden-8192-layer-3").model
    assert released.parameters == 204_952_704
    assert failing.parameters == 2_502_262_912
    assert composed("row", "experiment/other=hidden-8192-layer-3").backbone.num_layers == 1


def test_the_digest_sees_what_matters_only():
    plain = values("pretrain", "name=test")
    reference = composed("pretrain").digest()

    def digest(word: str) -> str:
        return OmegaConf.to_object(OmegaConf.merge(plain, OmegaConf.from_dotlist([word]))).digest()  # type: ignore[union-attr]

    for same in ("output=elsewhere", "group=other", "train.workers=2", "train.threads=1", "tracking.backend=none"):
        assert digest(same) == reference
    for different in ("seed=1", "train.tokens=1", "model.dropout=0", "data.seed=1", "task.mask_percent=20"):
        assert digest(different) != reference


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelConfig(64, 2, 5), r"model.num_heads=5 does not divide model.hidden_size=64"),
        (lambda: ModelConfig(0, 2, 5), r"model.hidden_size=0"),
        (lambda: ModelConfig(64, 2, 4, dropout=1.0), r"model.dropout=1.0"),
        (lambda: ModelConfig(64, 2, 4, head_activation="relu"), r"model.head_activation=relu"),
        (lambda: ScaleConfig(hidden_size=3).apply(ModelConfig(64, 2, 4)), r"scale.hidden_size=3 does not divide"),
        (
            lambda: TrainConfig(step_tokens=1000, micro_batch_tokens=300),
            r"train.micro_batch_tokens=300 does not divide",
        ),
        (lambda: TrainConfig(precision="fp8"), r"train.precision=fp8"),
        (lambda: OptimConfig(learning_rate=1e-6), r"optim.min_learning_rate=1e-05 is above optim.learning_rate=1e-06"),
        (lambda: OptimConfig(beta2=1.0), r"optim.beta2=1.0 is not in \[0, 1\)"),
        (lambda: composed("pretrain", f"seed={2**63}"), r"seed=9223372036854775808 is not below 2\*\*63"),
        (lambda: composed("pretrain", "strategy=ddp", "strategy.devices=3"), r"strategy.devices.*3 does not divide"),
        (lambda: composed("pretrain", "strategy.devices=2"), r"need strategy=ddp"),
        (lambda: composed("pretrain", "group=a/b"), r"group='a/b'"),
    ],
)
def test_impossible_values_name_their_knob(make: object, message: str):
    with pytest.raises(InputError, match=message):
        make()


EVERY_NUMBER = (
    ("pretrain", "task=masked_language_model"),
    ("finetune", "task=secondary_structure", "model=tiny", "adapter=lora"),
    ("finetune", "task=custom", "model=tiny", "data.csv=somewhere"),
    *(("pretrain", f"model={family}") for family in FAMILIES if family != "post_norm"),
    ("pretrain", "model=transformer_tape"),
)
"""Command lines whose configs have all numeric knobs between them."""


@pytest.mark.parametrize("command", EVERY_NUMBER)
def test_every_number_refuses_what_is_none_or_negative_by_its_name(command: tuple[str, ...]):
    original = values(*command, "name=test")
    numbers = [(knob, value) for knob, value in leaves(original) if type(value) in (int, float)]
    assert len(numbers) > 25
    for knob, value in numbers:
        for wrong in ("-1", "nan", "inf", "-inf") if isinstance(value, float) else ("-1",):
            changed = deepcopy(original)
            OmegaConf.update(changed, knob, type(value)(wrong))
            with pytest.raises(InputError, match=rf"^{re.escape(knob)}={wrong}") as error:
                OmegaConf.to_object(changed)
            assert "\n" not in str(error.value)


def leaves(node: DictConfig, above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in OmegaConf.to_container(node).items():  # type: ignore[union-attr]
        inner = node._get_node(name)
        yield from leaves(inner, f"{above}{name}.") if isinstance(inner, DictConfig) else [(f"{above}{name}", value)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("pretrain trian.tokens=3", "'trian.tokens'"),
        ("pretrain train.tokens=many", "train.tokens=many"),
        ("pretrain model.num_heads=5", "model.num_heads=5 does not divide model.hidden_size=64"),
        ("pretrain model=enormous", "model=enormous is not one of bert_base_tape, hf, lstm, one_hot, pretrained"),
        ("pretrain optim.beta1=nan", "optim.beta1=nan is not in [0, 1)"),
        ("row profile=null", "profile=null is not one of laptop, paper, single_gpu, smoke, nor [] for none of them"),
        ("row profile=paper data=csv data.csv=x.csv", "no conf/budget/paper_csv.yaml says how this profile fine-tunes"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(
    command: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    module, *overrides = command.split()
    process = Command(f"experiments.{module}", overrides)
    _, errors = process.communicate()
    assert process.returncode == 2
    assert errors.count("\n") == 1
    assert errors.startswith("error: ")
    assert message in errors
    assert not list(tmp_path.iterdir())


def test_printing_the_config_imports_no_torch(tmp_path: Path):
    code = (
        "import runpy, sys; sys.argv = ['proteinlm', 'pretrain', '--cfg', 'job'];"
        "runpy.run_module('proteinlm', run_name='__main__');"
        "sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, env=environment(), text=True
    )
    assert ended.returncode == 0
    assert "hidden_size: 64" in ended.stdout
