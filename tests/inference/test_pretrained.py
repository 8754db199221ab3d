"""The model that comes with the suite is whole and small, is what commands take, and tells proteins from their shuffles."""

import random
from pathlib import Path

import numpy as np
import pytest

import proteinlm
from proteinlm import checkpoint, pretrained, vocabulary
from proteinlm.inference.likelihoods import masked_log_probabilities
from proteinlm.inference.model import Model
from tests.inference.commands import run

MB = 1_000_000
NATURAL = {
    "ubiquitin, human": "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG",
    "thioredoxin, E. coli": (
        "MSDKIIHLTDDSFDTDVLKADGAILVDFWAEWCGPCKMIAPILDEIADEYQGKLTVAKLNIDQNPGTAPKYGIRGIPTLLLFKNGEVAATKVGALSKGQLKEFLDANLA"
    ),
    "lysozyme, hen": (
        "KVFGRCELAAAMKRHGLDNYRGYSLGNWVCAAKFESNFNTQATNRNTDGSTDYGILQINSRWWCNDGRTPGSRNLCNIPCSALLSSDITASVNCAKKIVSDGNGMNAWVAWRNR"
        "CKGTDVQAWIRGCRL"
    ),
}


@pytest.fixture(scope="module")
def model() -> Model:
    return proteinlm.load(device="cpu")


def test_it_is_whole_and_small(model: Model):
    assert (pretrained.DIRECTORY / "SHA256SUMS").is_file()  # so that loading has checked the sums
    assert sum(file.stat().st_size for file in pretrained.DIRECTORY.iterdir() if file.is_file()) < 20 * MB
    assert sum(tensor.numel() for tensor in checkpoint.load_weights(pretrained.DIRECTORY).tensors.values()) == (
        model.config.parameters
    )


def test_commands_take_it_by_default(tmp_path: Path, model: Model):
    fasta, out = tmp_path / "some.fasta", tmp_path / "some.npz"
    fasta.write_text("".join(f">{name.split(',')[0]}\n{letters}\n" for name, letters in NATURAL.items()))
    assert run("embed", fasta, "--out", out, "--device", "cpu")[0] == 0
    with np.load(out) as embedded:
        np.testing.assert_allclose(embedded["embeddings"], model.embed(list(NATURAL.values())), atol=1e-5)


def test_natural_proteins_are_likelier_than_their_shuffles(model: Model):
    """By the mean loss of every third residue: a pass for each residue of each would take minutes."""

    def loss(sequences: list[list[str]]) -> float:
        means = []
        for sequence in sequences:
            letters = np.frombuffer("".join(sequence).encode(), np.uint8)
            places = np.arange(0, len(letters), 3)
            logs = masked_log_probabilities(model, letters, places)
            means.append(-logs[np.arange(len(places)), vocabulary.encode_bytes(letters)[places]].mean())
        return float(np.mean(means))

    sequences, draw = [list(letters) for letters in NATURAL.values()], random.Random(0)
    own = loss(sequences)
    for _ in range(2):
        for sequence in sequences:
            draw.shuffle(sequence)
        assert own < loss(sequences) - 0.05
