"""`load` hands out what the saved modules compute, the same for a protein alone as in any company."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import proteinlm
from proteinlm import checkpoint, vocabulary
from proteinlm.checkpoint import weights
from proteinlm.config import ModelConfig
from proteinlm.errors import InputError
from proteinlm.inference.model import Placement
from proteinlm.models.backbone import Backbone
from proteinlm.records.run_directory import WEIGHTS
from tests.data.samples import protein
from tests.inference.models import CONFIG, saved
from tests.runs import ROOT

SEQUENCES = [protein(length, seed) for seed, length in enumerate((50, 3, 127, 50, 1, 90, 12))]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("model"))


def hidden(directory: Path, sequence: str) -> np.ndarray:
    """Hidden states (L + 1, H) by the bare backbone."""
    backbone = Backbone(CONFIG).eval()
    checkpoint.restore({"backbone": backbone}, checkpoint.load_weights(directory))
    tokens = torch.tensor([vocabulary.CLS, *vocabulary.encode(sequence)])
    with torch.inference_mode():
        return backbone(tokens, torch.tensor([0, len(tokens)], dtype=torch.int32), len(tokens)).numpy()


@pytest.mark.parametrize("batch_tokens", [1, 130, 4096])
def test_embeddings_are_those_of_each_protein_alone(directory: Path, batch_tokens: int):
    model = proteinlm.load(directory, batch_tokens=batch_tokens, device="cpu")
    mean, cls, residue = model.embed(SEQUENCES), model.embed(SEQUENCES, "cls"), model.embed(SEQUENCES, "residue")
    assert mean.shape == cls.shape == (len(SEQUENCES), CONFIG.hidden_size)
    assert mean.dtype == np.float32
    for place, sequence in enumerate(SEQUENCES):
        alone = hidden(directory, sequence)
        np.testing.assert_allclose(residue[place], alone[1:], atol=1e-5)
        np.testing.assert_allclose(mean[place], alone[1:].mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(cls[place], alone[0], atol=1e-5)
    assert np.abs(mean - mean[0])[1:].max(axis=1).min() > 0.01


def test_mixed_precision_is_close_and_not_the_same(directory: Path):
    exact = proteinlm.load(directory, device="cpu").embed(SEQUENCES)
    mixed = proteinlm.load(directory, device="cpu", precision="bf16-mixed").embed(SEQUENCES)
    assert 1e-4 < np.abs(exact - mixed).max() < 0.1
    assert mixed.dtype == np.float32


PEAK = """
import sys
from pathlib import Path
import proteinlm
def peak():  # bytes
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
proteinlm.load(sys.argv[1], device="cpu")
before = peak()
proteinlm.load(sys.argv[2], device="cpu")
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_loading_holds_the_weights_once(directory: Path, tmp_path: Path):
    large = saved(tmp_path, ModelConfig(512, 8, 8, max_positions=128))
    process = subprocess.run([sys.executable, "-c", PEAK, directory, large], capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 0, process.stderr
    size = (large / WEIGHTS).stat().st_size
    assert size > 100e6
    assert 0.9 * size < int(process.stdout) < 1.5 * size  # a second copy would make it 2


def test_weights_that_are_replaced_while_they_are_read_are_the_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    kept = weights.read_tensors
    before = checkpoint.load_weights(saved(tmp_path, head=False))

    def replaced(file: Path) -> dict[str, torch.Tensor]:
        monkeypatch.setattr(weights, "read_tensors", kept)
        old = kept(file)
        saved(tmp_path)
        return old

    monkeypatch.setattr(weights, "read_tensors", replaced)
    found = checkpoint.load_weights(tmp_path)
    assert "head.bias" in found.tensors
    assert found.fingerprint == checkpoint.load_weights(tmp_path).fingerprint != before.fingerprint


def test_bad_input_is_one_line(directory: Path, tmp_path: Path):
    model = proteinlm.load(directory, device="cpu")
    for sequence, message in (
        ("", "protein 1: an empty sequence"),
        ("ACJ", "protein 1: letter 'J' at position 3"),
        ("A" * 128, "protein 1: 128 residues, more than the 127"),
        ("Å", "protein 1: letter 'Å' at position 1"),
    ):
        with pytest.raises(InputError, match=message):
            model.embed(["ACD", sequence])
    with pytest.raises(InputError, match=r"no model.safetensors in it"):
        proteinlm.load(tmp_path)
    with pytest.raises(InputError, match=r"nowhere: no such directory"):
        proteinlm.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="--device warp"):
        Placement.choose("warp")
    with pytest.raises(InputError, match="--precision fp8"):
        Placement.choose(precision="fp8")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="--device cuda"):
            Placement.choose("cuda")
    with pytest.raises(InputError, match="no language-model head"):
        _ = proteinlm.load(saved(tmp_path / "headless", head=False), device="cpu").head


def test_no_proteins_are_no_rows(directory: Path):
    assert proteinlm.load(directory, device="cpu").embed([]).shape == (0, CONFIG.hidden_size)


def test_names_are_handed_out_when_asked_for():
    code = "import sys, proteinlm.config; a = set(sys.modules); from proteinlm import ModelConfig; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" not in run.stdout.split()
    assert proteinlm.Backbone is Backbone
    assert proteinlm.ModelConfig is type(CONFIG)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = proteinlm.nothing  # type: ignore[attr-defined]
