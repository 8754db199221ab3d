"""A neural Potts model learns from made-up families what holds for others; killed, it goes on to the same weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import family_training, neural_potts
from experiments.family_training import draw_alignment
from proteinlm.config import ModelConfig, SyntheticDataConfig
from proteinlm.data.synthetic.families import Role, universe_of
from proteinlm.errors import InputError
from proteinlm.inference.neural_potts import potts_of
from proteinlm.models.potts import states_of
from tests.experiments.interruption import stopped_after
from tests.inference.models import saved

CONFIG = SyntheticDataConfig(folds=20, labelled=0.04)
SHAPE = ModelConfig(hidden_size=16, num_layers=1, num_heads=2, dropout=0.0)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neural_potts, "SHAPE", SHAPE)
    monkeypatch.setattr(neural_potts, "FAMILIES", 3)
    monkeypatch.setattr(neural_potts, "RELATIVES", 4)


def test_a_killed_training_ends_in_the_weights_of_an_undisturbed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    neural_potts.train(CONFIG, tmp_path / "undisturbed", 5)
    with monkeypatch.context() as patched:
        patched.setattr(family_training, "SAVED_EVERY", 0.0)
        patched.setattr(neural_potts, "_loss", stopped_after(3, neural_potts))
        with pytest.raises(KeyboardInterrupt):
            neural_potts.train(CONFIG, tmp_path / "killed", 5)
    start = saved(tmp_path / "start")
    for steps, other in ((6, None), (5, start)):
        with pytest.raises(InputError, match="of a run with other data or steps"):
            neural_potts.train(CONFIG, tmp_path / "killed", steps, other)
    monkeypatch.setattr(neural_potts, "_loss", stopped_after(2, neural_potts))
    neural_potts.train(CONFIG, tmp_path / "killed", 5)
    one, other = ((tmp_path / each / "model.safetensors").read_bytes() for each in ("killed", "undisturbed"))
    assert one == other
    assert not (tmp_path / "killed/training.pt").exists()
    monkeypatch.setattr(neural_potts, "_loss", stopped_after(0, neural_potts))
    neural_potts.train(CONFIG, tmp_path / "killed", 5)  # nothing is left to do


def test_it_starts_from_the_backbone_and_keeps_its_control(tmp_path: Path):
    start = saved(tmp_path / "start")
    trained = neural_potts.train(CONFIG, tmp_path / "out", 2, start)
    control = neural_potts.load(tmp_path / "out/untrained", device="cpu")
    given = neural_potts.load(start, device="cpu").backbone.state_dict()
    for name, tensor in control.backbone.state_dict().items():
        torch.testing.assert_close(tensor, given[name], rtol=0, atol=0)
    assert any(not torch.equal(tensor, given[name]) for name, tensor in trained.backbone.state_dict().items())


def test_the_loss_is_that_of_relatives_by_the_model_of_each_protein_alone(tmp_path: Path):
    """Families are packed for the backbone; each is scored as if it were by itself."""
    model = neural_potts.train(CONFIG, tmp_path, 1)
    universe = universe_of(CONFIG)
    assert model.neural_potts
    modules = {"backbone": model.backbone, "neural_potts": model.neural_potts}
    found = neural_potts._loss(modules, universe, np.random.default_rng(0))
    generator = np.random.default_rng(0)
    families = generator.choice(universe.of(Role.TRAIN), 3, replace=False)
    drawn = [draw_alignment(universe, family, 5, generator) for family in families.tolist()]
    assert len({letters.shape[1] for letters in drawn}) > 1
    means = [
        potts_of(model, letters[0]).log_conditionals(torch.from_numpy(states_of(letters[1:]))).mean()
        for letters in drawn
    ]
    assert float(found) == pytest.approx(-float(torch.stack(means).mean()), abs=1e-5)


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    short = saved(tmp_path / "short", ModelConfig(8, 1, 2, max_positions=20))
    with pytest.raises(InputError, match="positions for 19 residues, too few for this universe"):
        neural_potts.train(CONFIG, tmp_path / "out", 1, short)
    with pytest.raises(InputError, match="no such directory"):
        neural_potts.train(CONFIG, tmp_path / "out", 1, tmp_path / "none")
    with pytest.raises(InputError, match="--steps at least 1"):
        neural_potts.main(["--output", str(tmp_path / "out"), "--steps", "0"])
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out/training.pt").write_bytes(b"no state")
    with pytest.raises(InputError, match=r"training\.pt: damaged"):
        neural_potts.train(CONFIG, tmp_path / "out", 1)


def test_the_command_compares_it_with_what_is_fitted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(neural_potts, "COMPARED", 3)
    monkeypatch.setattr(neural_potts, "FITTED", 60)
    assert neural_potts.main(["--output", str(tmp_path), "--steps", "20"]) == 0
    lines = capsys.readouterr().out.splitlines()
    values = {line[:40].strip(): float(line[40:].split()[0]) for line in lines if " to " in line}
    trained, untrained, fitted, alone = values.values()
    assert [*values][2] == "Potts model, fitted to 60 relatives"
    assert fitted < alone < untrained
    assert trained < untrained
