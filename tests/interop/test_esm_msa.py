"""An imported MSA Transformer computes what fair-esm 2.0.0 does, whose numbers are in the samples, to 1e-5."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from proteinlm.data.alignments.reading import read_alignment
from proteinlm.errors import InputError
from proteinlm.inference import msa
from proteinlm.inference.msa import MSAReader
from proteinlm.interop.esm_msa import import_checkpoint, load_model
from proteinlm.models import msa_transformer
from proteinlm.models.msa_transformer import MASK, TOKENS, Shape, encode
from tests.inference.commands import assert_refused, run
from tests.interop import esm_msa_samples as samples

CPU = ("--device", "cpu")


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    import_checkpoint(samples.save(tmp_path), tmp_path / "imported")
    return tmp_path / "imported"


def letters(*rows: str) -> np.ndarray:
    return np.array([list(row.encode()) for row in rows], np.uint8)


@pytest.mark.parametrize("at_once", [2**14, 7])
def test_it_computes_what_fair_esm_computes(imported: Path, monkeypatch: pytest.MonkeyPatch, at_once: int):
    """Also where attention is computed piece by piece."""
    monkeypatch.setattr(msa_transformer, "AT_ONCE", at_once)
    model = load_model(imported)
    with torch.inference_mode():
        hidden, maps = model(torch.from_numpy(encode(letters(*samples.ALIGNMENT))))
        found = samples.numbers(model.logits(hidden), hidden, model.contact_probabilities(maps))
    assert found.keys() == samples.OUTPUT.keys()
    for name, values in samples.OUTPUT.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-5, err_msg=name)


def test_fair_esm_still_says_so(imported: Path):
    esm = pytest.importorskip("esm", reason="fair-esm is not installed")
    theirs = esm.MSATransformer(samples.ARGUMENTS, esm.Alphabet.from_architecture("msa_transformer")).eval()
    theirs.load_state_dict(samples.tensors())
    ours = load_model(imported)
    generator = np.random.default_rng(0)
    for rows, columns in ((1, 5), (3, 30), (12, 11)):
        drawn = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWYX-", np.uint8)[generator.integers(0, 22, (rows, columns))]
        tokens = torch.from_numpy(encode(drawn))
        with torch.no_grad():
            expected = theirs(tokens[None], repr_layers=[samples.LAYERS], return_contacts=True)
            hidden, maps = ours(tokens)
        torch.testing.assert_close(ours.logits(hidden), expected["logits"][0], rtol=0, atol=1e-5)
        torch.testing.assert_close(hidden, expected["representations"][samples.LAYERS][0], rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.contact_probabilities(maps), expected["contacts"][0], rtol=0, atol=1e-5)


def test_row_attention_is_tied(imported: Path):
    """Its weights are a softmax of scores that are summed over the rows, by loops."""
    attention = load_model(imported).blocks[0].row
    x = torch.randn(3, 5, samples.SIZE, generator=torch.Generator().manual_seed(0))
    _, weights = attention(x)
    size = samples.SIZE // samples.HEADS
    for head in range(samples.HEADS):
        part = slice(head * size, (head + 1) * size)
        scores = np.zeros((5, 5))
        for row in range(3):
            query, key = attention.query(x[row])[:, part].numpy(), attention.key(x[row])[:, part].numpy()
            scores += query @ key.T / np.sqrt(size) / np.sqrt(3)
        expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(weights[head].numpy(), expected, atol=1e-6)


def test_contacts_and_scores_on_the_command_line(tmp_path: Path, imported: Path):
    a3m = tmp_path / "x.a3m"
    a3m.write_text("".join(f">{row}\n{text.replace('.', '-')}\n" for row, text in enumerate(samples.ALIGNMENT)))
    reader = MSAReader(imported, torch.device("cpu"))
    alignment = read_alignment(a3m)
    out = tmp_path / "maps.npz"
    assert run("contacts", "--alignment", a3m, "--model", imported, "--out", out, *CPU)[0] == 0
    with np.load(out) as maps:
        np.testing.assert_array_equal(maps["x"], reader.contacts(alignment))
    (tmp_path / "wt.fasta").write_text(f">wt\n{samples.ALIGNMENT[0]}\n")
    (tmp_path / "v.csv").write_text("mutant\nK2A\nK2A:T3P\n")
    words = ("score", tmp_path / "wt.fasta", tmp_path / "v.csv", "--alignment", a3m, "--model", imported, *CPU)
    assert run(*words, "--depth", "3", "--rows", "first", "--out", tmp_path / "s.csv")[0] == 0
    scores = [float(line.split(",")[1]) for line in (tmp_path / "s.csv").read_text().splitlines()[1:]]
    model, expected = load_model(imported), []
    for place, before, after in ((2, "K", "A"), (3, "T", "P")):
        tokens = torch.from_numpy(encode(alignment.letters[:3]))
        tokens[0, place] = MASK
        with torch.inference_mode():
            logs = model.logits(model(tokens)[0])[0, place].log_softmax(dim=-1)
        expected.append(float(logs[TOKENS.index(after)] - logs[TOKENS.index(before)]))
    np.testing.assert_allclose(scores, [expected[0], sum(expected)], atol=1e-5)
    assert reader.embed(alignment).shape == (9, samples.SIZE)


def test_it_is_imported_on_the_command_line(tmp_path: Path):
    code, output, _ = run("import", "msa", samples.save(tmp_path), tmp_path / "out")
    assert code == 0
    assert output.startswith("MSA Transformer: hidden size 12, 2 layers, 3 heads, 63 residues, 1024 rows\n")


def test_memory_is_planned_before_it_starts(tmp_path: Path, imported: Path, monkeypatch: pytest.MonkeyPatch):
    """The sizes of esm_msa1b on 256 rows of 300 residues, where 12 heads by 301 by 301 are kept of 12 layers."""
    assert 1e9 < Shape().bytes_needed(256, 300) < 4e9
    monkeypatch.setattr(msa, "free_memory", lambda device: 1000.0)
    (tmp_path / "x.a3m").write_text(">q\nMKTA\n>b\nMRTG\n")
    words = ("contacts", "--alignment", tmp_path / "x.a3m", "--model", imported, "--out", tmp_path / "maps.npz", *CPU)
    assert_refused(run(*words), "x.a3m: 2 rows of 4 residues take")


def test_what_is_no_msa_transformer_is_refused(tmp_path: Path, imported: Path):
    checkpoint = samples.save(tmp_path)
    (tmp_path / "small-contact-regression.pt").unlink()
    with pytest.raises(InputError, match=r"small-contact-regression.pt: not there"):
        import_checkpoint(checkpoint, tmp_path / "a")
    torch.save({"args": Namespace(arch="roberta_large"), "model": {}}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other.pt: not an MSA Transformer of fair-esm"):
        import_checkpoint(tmp_path / "other.pt", tmp_path / "b")
    (tmp_path / "text.pt").write_text("no")
    with pytest.raises(InputError, match=r"text.pt: (refused, or )?not a readable checkpoint"):
        import_checkpoint(tmp_path / "text.pt", tmp_path / "c")
    with pytest.raises(InputError, match=r"none.pt: no such file"):
        import_checkpoint(tmp_path / "none.pt", tmp_path / "d")
    (imported / "config.json").write_text("{}")
    with pytest.raises(InputError, match="not an MSA Transformer"):
        load_model(imported)
    with pytest.raises(InputError, match="sizes below one"):
        Shape(hidden_size=10, num_heads=3)
