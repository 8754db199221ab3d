"""Every shipped config composes into a checked run, and a mistake is named in one line before anything is written."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments.table7.published import TABLE7
from proteinlm.config import ModelConfig, OptimConfig, ScaleConfig, TrainConfig, register_schema
from proteinlm.errors import InputError
from tests.models.test_backbone import PARAMETERS
from tests.runs import Command

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
ROWS = sorted(file.stem for file in (CONF / "experiment/table7").glob("*.yaml"))
PROFILES = sorted(file.stem for file in (CONF / "profile").glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    """Compose many configs of files that are read once."""
    register_schema()
    read = cache(FileConfigSource.load_config)
    with initialize_config_dir(str(CONF), version_base="1.3"), pytest.MonkeyPatch.context() as patched:
        patched.setattr(FileConfigSource, "load_config", lambda source, path: deepcopy(read(source, path)))
        yield


def composed(entry: str, *overrides: str) -> Any:
    overrides = (*overrides, "name=test") if entry == "pretrain" else overrides
    return OmegaConf.to_object(compose(entry, list(overrides)))


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


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_scales_every_row(profile: str):
    for row in ROWS:
        config = composed("row", f"experiment/table7={row}", f"profile={profile}")
        assert config.model.hidden_size == config.backbone.hidden_size * config.scale.hidden_size
        assert config.backbone.head_dim >= 2


def test_the_word_on_tracking_is_heard_in_a_profile_that_has_one_of_its_own():
    assert composed("row", "experiment/table7=hidden-512-layer-32-head-8", "profile=smoke").tracking.backend == "csv"
    said = ("profile=smoke", "tracking=wandb")
    for words in (said, said[::-1]):
        assert composed("row", "experiment/table7=hidden-512-layer-32-head-8", *words).tracking.backend == "wandb"


@pytest.mark.parametrize("group", ["model", "strategy", "tracking", "data", "task", "profile"])
def test_every_option_of_every_group_composes(group: str):
    downstream = {
        "pretrained",
        "custom",
        "secondary_structure",
        "remote_homology",
        "contact",
        "fluorescence",
        "stability",
    }
    for file in (CONF / group).glob("*.yaml"):
        if file.stem in downstream or (group, file.stem) == ("data", "csv"):
            required = ["data.csv=somewhere"] if (group, file.stem) in (("data", "csv"), ("task", "custom")) else []
            composed("finetune", "model.path=somewhere", "name=test", f"{group}={file.stem}", *required)
            continue
        required = ["data.root=somewhere"] if (group, file.stem) == ("data", "files") else []
        needed = {"profile": "small", "next_residue": "lstm"}
        model = next((f"model={needed[key]}" for key in (group, file.stem) if key in needed), None)
        composed("pretrain", f"{group}={file.stem}", *required, *([model] if model else []))


def test_the_two_shapes_outside_the_table():
    released = composed("row", "experiment/other=hidden-1024-layer-16-head-16").model
    failing = composed("row", "experiment/other=hidden-8192-layer-3").model
    assert released.parameters == 204_952_704
    assert failing.parameters == 2_502_262_912
    assert composed("row", "experiment/other=hidden-8192-layer-3").backbone.num_layers == 1


def test_the_digest_sees_what_matters_only():
    reference = composed("pretrain").digest()
    for same in ("output=elsewhere", "group=other", "train.workers=2", "train.threads=1", "tracking=none"):
        assert composed("pretrain", same).digest() == reference
    for different in ("seed=1", "train.tokens=1", "model.dropout=0", "data.seed=1", "task.mask_percent=20"):
        assert composed("pretrain", different).digest() != reference


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
        (lambda: OptimConfig(learning_rate=1e-6), r"optim.min_learning_rate"),
        (lambda: composed("pretrain", "strategy=ddp", "strategy.devices=3"), r"strategy.devices.*3 does not divide"),
        (lambda: composed("pretrain", "strategy.devices=2"), r"need strategy=ddp"),
        (lambda: composed("pretrain", "group=a/b"), r"group='a/b'"),
    ],
)
def test_impossible_values_name_their_knob(make: object, message: str):
    with pytest.raises(InputError, match=message):
        make()


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trian.tokens=3", "'trian.tokens'"),
        ("train.tokens=many", "train.tokens=many"),
        ("model.num_heads=5", "model.num_heads=5 does not divide model.hidden_size=64"),
        ("model=enormous", "model=enormous is not one of bert_base_tape, hf, lstm, one_hot, pretrained"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(
    override: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    process = Command("experiments.pretrain", [override])
    _, errors = process.communicate()
    assert process.returncode == 2
    assert errors.count("\n") == 1
    assert errors.startswith("error: ")
    assert message in errors
    assert not list(tmp_path.iterdir())


def test_printing_the_config_imports_no_torch(tmp_path: Path):
    code = (
        "import runpy, sys; sys.argv = ['pretrain', '--cfg', 'job'];"
        "runpy.run_module('experiments.pretrain', run_name='__main__');"
        "sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, env=environment(), text=True
    )
    assert ended.returncode == 0
    assert "hidden_size: 64" in ended.stdout
