"""What commands say by a neural Potts model is what its head says of each protein alone."""

import csv
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch

from proteinlm import checkpoint, load
from proteinlm.errors import InputError
from proteinlm.inference import neural_potts
from proteinlm.inference.model import NEURAL_POTTS
from proteinlm.models.backbone import Backbone
from proteinlm.models.neural_potts import NeuralPotts
from proteinlm.models.potts import Potts, states_of
from tests.data.samples import protein
from tests.inference.commands import assert_refused, run
from tests.inference.models import CONFIG, saved

PROTEINS = {"a": protein(30, 1), "b": protein(55, 2)}
CPU = ("--device", "cpu")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    modules = {"backbone": Backbone(CONFIG), NEURAL_POTTS: NeuralPotts(CONFIG.hidden_size, 5, 4, 3)}
    with torch.no_grad():
        for module in modules.values():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    checkpoint.save_weights(tmp_path / "model", modules, CONFIG)
    return tmp_path / "model"


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    path = tmp_path / "in.fasta"
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in PROTEINS.items()))
    return path


def expected(directory: Path, sequence: str) -> Potts:
    """The head's model of a protein, by its hidden states as `proteinlm embed` gives them."""
    loaded = load(directory, device="cpu")
    head = NeuralPotts(CONFIG.hidden_size, 5, 4, 3)
    checkpoint.restore({NEURAL_POTTS: head}, checkpoint.load_weights(directory))
    (hidden,) = loaded.embed([sequence], "residue")
    with torch.no_grad():
        return head(torch.from_numpy(hidden))


def test_contact_maps_are_the_norms_of_its_couplings(tmp_path: Path, model: Path, fasta: Path):
    for method in ("auto", "couplings"):
        out = tmp_path / f"{method}.npz"
        assert run("contacts", fasta, "--model", model, "--out", out, "--method", method, *CPU)[0] == 0
        maps = np.load(out)
        for name, sequence in PROTEINS.items():
            wanted = expected(model, sequence).contacts().numpy()
            assert wanted.std() > 1e-3
            np.testing.assert_allclose(maps[name], wanted, atol=1e-5)


def test_saved_couplings_give_energies_and_variants_their_differences(tmp_path: Path, model: Path, fasta: Path):
    out = tmp_path / "couplings"
    code, said, _ = run("couplings", fasta, "--model", model, "--out", out, *CPU)
    assert (code, said.split()) == (0, [str(out / "a.model"), str(out / "b.model")])
    wildtype = PROTEINS["a"]
    variant = f"{'W' if wildtype[0] != 'W' else 'A'}{wildtype[1:9]}{'K' if wildtype[9] != 'K' else 'L'}{wildtype[10:]}"
    states = torch.from_numpy(states_of(np.array([[*wildtype.encode()], [*variant.encode()]], np.uint8)))
    energies = expected(model, wildtype).energies(states)
    designed = tmp_path / "designed.fasta"
    designed.write_text(f">wt\n{wildtype}\n>v\n{variant}\n")
    code, said, _ = run("energies", designed, "--couplings", out / "a.model", *CPU)
    assert code == 0
    rows = [*csv.DictReader(StringIO(said))]
    np.testing.assert_allclose([float(row["energy"]) for row in rows], energies, atol=1e-4)
    single, mutants, scores = tmp_path / "wt.fasta", tmp_path / "mutants.csv", tmp_path / "scores.csv"
    single.write_text(f">wt\n{wildtype}\n")
    mutants.write_text(f"mutant\n{wildtype[0]}1{variant[0]}:{wildtype[9]}10{variant[9]}\n")
    assert run("score", single, mutants, "--model", model, "--out", scores, *CPU)[0] == 0
    (row,) = csv.DictReader(StringIO(scores.read_text()))
    assert float(row["score"]) == pytest.approx(float(energies[0] - energies[1]), abs=1e-4)
    assert abs(float(row["score"])) > 1e-2


def test_couplings_that_are_there_are_kept(tmp_path: Path, model: Path, fasta: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "couplings"
    words = ("couplings", fasta, "--model", model, "--out", out, *CPU)
    assert run(*words)[0] == 0
    before = (out / "a.model").read_bytes()
    (out / "b.model").unlink()
    asked: list[int] = []
    potts_of = neural_potts.potts_of
    monkeypatch.setattr(
        "proteinlm.inference.energies.potts_of", lambda *given: asked.append(len(given[1])) or potts_of(*given)
    )
    assert run(*words)[0] == 0
    assert asked == [len(PROTEINS["b"])]
    assert (out / "a.model").read_bytes() == before


def test_files_are_named_after_proteins(tmp_path: Path, model: Path):
    """As Pfam and UniProt name them; a name that no file can have is changed."""
    names = {"Q8XYZ1_9BACT/25-180": "Q8XYZ1_9BACT_25-180", "sp|P1|A_B": "sp|P1|A_B", ".hidden": "_hidden"}
    fasta, long = tmp_path / "named.fasta", "long" * 60
    fasta.write_text("".join(f">{name}\n{protein(12, 3)}\n" for name in [*names, long]))
    code, said, _ = run("couplings", fasta, "--model", model, "--out", tmp_path / "c", *CPU)
    *files, of_long = (Path(line).stem for line in said.splitlines())
    assert (code, files) == (0, [*names.values()])
    assert of_long.startswith("long" * 50 + "-")
    assert {path.stem for path in (tmp_path / "c").glob("*.model")} == {*files, of_long}


def test_bad_input_is_refused_in_one_line(tmp_path: Path, model: Path, fasta: Path, monkeypatch: pytest.MonkeyPatch):
    plain, out = saved(tmp_path / "plain"), tmp_path / "out.npz"
    none = "no neural Potts model, which alone gives couplings"
    assert_refused(run("couplings", fasta, "--model", plain, "--out", tmp_path / "c", *CPU), none)
    assert_refused(run("contacts", fasta, "--model", plain, "--out", out, "--method", "couplings", *CPU), none)
    assert_refused(
        run("contacts", fasta, "--model", model, "--out", out, "--fit", "synthetic", *CPU), "--fit is for maps"
    )
    assert_refused(run("couplings", fasta, fasta, "--model", model, "--out", tmp_path / "c", *CPU), "takes one file")
    named = tmp_path / "named.fasta"
    named.write_text(">a/1\nACDE\n>a_1\nACDE\n")
    assert_refused(
        run("couplings", named, "--model", model, "--out", tmp_path / "c", *CPU),
        "(a_1): a name that came before, as a_1",
    )
    named.write_text(f">a\n{protein(200, 1)}\n")
    assert_refused(run("couplings", named, "--model", model, "--out", tmp_path / "c", *CPU), "200 residues, more than")
    monkeypatch.setattr(neural_potts, "free_memory", lambda device: 1e6)
    assert_refused(
        run("couplings", fasta, "--model", model, "--out", tmp_path / "c", *CPU), "couplings of 30 residues take"
    )


def test_damaged_weights_are_named(model: Path):
    weights = checkpoint.load_weights(model)
    for tensors in (
        {**weights.tensors, "neural_potts.matrices": torch.zeros(5, 3)},
        {**weights.tensors, "neural_potts.matrices": torch.zeros(0, 3, 3)},
        {name: each for name, each in weights.tensors.items() if name != "neural_potts.query.weight"},
        {name: each for name, each in weights.tensors.items() if name != "neural_potts.states"},
    ):
        checkpoint.save_tensors(model, tensors, CONFIG)
        with pytest.raises(InputError, match="neural"):
            load(model, device="cpu")
