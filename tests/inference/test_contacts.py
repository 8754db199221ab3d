"""Contact maps are those of the fine-tuned head, or read off attention that a plain softmax reproduces."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from proteinlm import checkpoint, load, vocabulary
from proteinlm.config import ModelConfig
from proteinlm.data import synthetic
from proteinlm.errors import InputError
from proteinlm.inference import attention_contacts
from proteinlm.inference.attention_contacts import Readout, SolvedChain
from proteinlm.models.backbone import Backbone
from proteinlm.tasks import downstream
from proteinlm.training import finetuning
from tests.data.samples import protein
from tests.inference.commands import assert_refused, run
from tests.inference.models import CONFIG, saved
from tests.tasks import toys
from tests.tasks.toys import composed, home

SEQUENCES = {"sp|P1/2": protein(30, 1), "b": protein(55, 2), "c": protein(1, 3)}
CPU = ("--device", "cpu")


@pytest.fixture(autouse=True)
def toy_proteins(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(synthetic, "labelled", toys.labelled, raising=False)


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    path = tmp_path / "in.fasta"
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in SEQUENCES.items()))
    return path


def letters(sequence: str) -> np.ndarray:
    return np.frombuffer(sequence.encode(), np.uint8)


def attention(directory: Path, sequence: str) -> np.ndarray:
    """Every head's attention among residues, (heads of all layers, L, L), by loops over the bare backbone."""
    backbone = Backbone(CONFIG).eval()
    checkpoint.restore({"backbone": backbone}, checkpoint.load_weights(directory))
    inputs: list[torch.Tensor] = []
    for block in backbone.blocks:
        block.attention.query_key_value.register_forward_hook(lambda _, __, output: inputs.append(output))
    tokens = torch.tensor([vocabulary.CLS, *vocabulary.encode(sequence)])
    with torch.inference_mode():
        backbone(tokens, torch.tensor([0, len(tokens)], dtype=torch.int32), len(tokens))
    found, dim = [], CONFIG.head_dim
    for joint in inputs:
        for head in range(CONFIG.num_heads):
            query, key, _ = joint[:, 3 * dim * head : 3 * dim * (head + 1)].split(dim, dim=1)
            found.append((query @ key.T / math.sqrt(dim)).softmax(dim=-1)[1:, 1:].numpy())
    return np.stack(found)


def test_maps_are_the_backbones_attention_corrected_for_the_average_product(tmp_path: Path):
    model = load(saved(tmp_path / "model"), device="cpu")
    wanted = attention(tmp_path / "model", SEQUENCES["b"])
    wanted = wanted + wanted.transpose(0, 2, 1)
    for matrix in wanted:
        rows, whole = matrix.sum(axis=1), matrix.sum()
        for i in range(len(matrix)):
            for j in range(len(matrix)):
                matrix[i, j] -= rows[i] * rows[j] / whole
    found = torch.cat(attention_contacts.attention_maps(model, letters(SEQUENCES["b"]))).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_readout_finds_what_one_head_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attention_contacts, "SAMPLED_PAIRS", 300)  # of some 2,000
    model = load(saved(tmp_path / "model"), device="cpu")
    secret, generator = 6, np.random.default_rng(0)
    proteins = []
    for seed in range(6):
        sequence = letters(protein(70, seed))
        shown = torch.cat(attention_contacts.attention_maps(model, sequence)).numpy()[secret]
        contacts = shown > np.quantile(shown, 0.95)
        resolved = generator.random(len(sequence)) < 0.9
        proteins.append(SolvedChain(sequence, contacts, resolved))
    readout = attention_contacts.fit(model, proteins[:5])
    assert readout.heads == [secret]
    assert int(np.argmax(readout.coefficients)) == secret
    assert readout.precision["best-heads"] > 0.8
    assert readout.precision["regression"] > 0.8
    unseen = proteins[5]
    probabilities = readout.probabilities(model, unseen.letters).numpy()
    far = np.triu(np.ones_like(unseen.contacts), 6)
    assert probabilities[far & unseen.contacts].mean() > 0.3 + probabilities[far & ~unseen.contacts].mean()
    assert (
        abs(probabilities[far].mean() - unseen.contacts[far].mean()) < 0.01
    )  # calibrated, although pairs were sampled
    np.testing.assert_allclose(
        readout.mean_of_best(model, unseen.letters),
        torch.cat(attention_contacts.attention_maps(model, unseen.letters))[secret],
    )


def test_contacts_of_attention(tmp_path: Path, fasta: Path):
    directory = saved(tmp_path / "model")
    command = ("contacts", fasta, "--model", directory, "--out", tmp_path / "out.npz", *CPU)
    assert_refused(run(*command), "no readout of its attention maps yet; name proteins of known structure")
    code, _, errors = run(*command, "--fit", "synthetic", "--pictures", tmp_path / "pictures")
    assert code == 0
    assert errors.startswith("fitted to 20 proteins, on which P@L is: regression 0.")
    model = load(directory, device="cpu")
    readout = attention_contacts.load(model, directory)
    maps = np.load(tmp_path / "out.npz")
    assert list(maps) == list(SEQUENCES)
    for name, sequence in SEQUENCES.items():
        np.testing.assert_allclose(maps[name], readout.probabilities(model, letters(sequence)), atol=1e-6)
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["b.png", "c.png", "sp|P1%2F2.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (tmp_path / "pictures").iterdir())
    assert_refused(run(*command, "--pictures", fasta), "--pictures")
    long = tmp_path / "long.fasta"
    long.write_text("".join(f">{'x' * 300}${end}\nACDEF\n" for end in ("$", "_{")))
    pictures = ("--pictures", tmp_path / "more", "--out", tmp_path / "more.npz")
    assert run("contacts", long, "--model", directory, *pictures, *CPU)[0] == 0
    assert len({path.name for path in (tmp_path / "more").glob("xxx*.png")}) == 2
    assert run(*command, "--method", "best-heads")[0] == 0
    best = np.load(tmp_path / "out.npz")["b"]
    np.testing.assert_allclose(best, readout.mean_of_best(model, letters(SEQUENCES["b"])), atol=1e-6)
    saved(directory, ModelConfig(32, 1, 4, max_positions=128))
    assert_refused(run(*command), "fitted for other weights")


def test_scores_on_the_test_chains_are_those_of_the_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    directory, draw = saved(tmp_path / "model"), np.random.default_rng(0)
    chains, asked = [], []
    for length in (60, 71, 80, 65):
        contacts = np.triu(draw.random((length, length)) < 0.2, 1)
        contacts[:20] &= draw.random((20, length)) < 0.3  # else every ranking would be as good as another
        chains.append(SolvedChain(letters(protein(length, length)), contacts | contacts.T, draw.random(length) < 0.8))

    def solved_chains(data: str, split: str) -> list[SolvedChain]:
        asked.append((data, split))
        return chains

    monkeypatch.setattr(attention_contacts, "solved_chains", solved_chains)
    model = load(directory, device="cpu")
    readout = Readout(model.fingerprint, draw.normal(0, 9, 8).tolist(), -1.0, [2, 5], 1, {})
    attention_contacts.save(readout, directory)
    code, output, _ = run("score-contacts", "somewhere", "--model", directory, *CPU)
    assert code == 0
    assert asked == [("somewhere", "test")]
    lines = output.splitlines()
    assert [line.split()[0] for line in lines] == ["separation", "regression", "best-heads"]
    precisions: dict[str, list[float]] = {}
    for chain in chains:
        pairs = np.triu_indices(len(chain.letters), 24)
        counted = chain.resolved[pairs[0]] & chain.resolved[pairs[1]]
        for name, scores in {
            "separation": pairs[0] - pairs[1],
            "regression": readout.probabilities(model, chain.letters).numpy()[pairs],
            "best-heads": readout.mean_of_best(model, chain.letters).numpy()[pairs],
        }.items():
            best = np.argsort(-scores[counted], kind="stable")[: int(chain.resolved.sum())]
            precisions.setdefault(name, []).append(chain.contacts[pairs][counted][best].mean())
    alone = np.mean(precisions["separation"])
    for line in lines:
        mean = np.mean(precisions[line.split()[0]])
        assert 0 < mean < 1
        assert f"P@L {mean:.3f} (" in line
        assert "4 chains" in line
        if not line.startswith("separation"):
            assert abs(mean - alone) > 0.002
            assert f"; {mean - alone:+.3f} (" in line


def chain_with_contact(length: int, separation: int) -> SolvedChain:
    """A chain whose only contact is at this separation."""
    contacts = np.zeros((length, length), bool)
    contacts[2, 2 + separation] = contacts[2 + separation, 2] = True
    return SolvedChain(letters(protein(length, length)), contacts, np.ones(length, bool))


def test_a_readout_is_fitted_to_twenty_chains_with_a_contact_six_apart(monkeypatch: pytest.MonkeyPatch):
    sizes = [(29, 6), (30, 6), (40, 5), (300, 9), (301, 9), *((50 + number, 6) for number in range(30))]
    asked = []

    def chains(data: str, split: str) -> list[SolvedChain]:
        asked.append((data, split))
        return [chain_with_contact(*size) for size in sizes]

    monkeypatch.setattr(attention_contacts, "solved_chains", chains)
    found = attention_contacts.training_chains("somewhere", attention_contacts.LONGEST)
    assert [len(each.letters) for each in found] == [30, 300, *range(50, 68)]
    assert asked == [("somewhere", "train")]
    assert [len(each.letters) for each in attention_contacts.training_chains("x", 51)] == [30, 50, 51]
    with pytest.raises(InputError, match="no training chain of 30 to 20 residues with a contact"):
        attention_contacts.training_chains("x", 20)


def test_only_resolved_pairs_are_counted(tmp_path: Path):
    """Residues without coordinates have no contacts: as pairs, they would count as wrong."""
    model = load(saved(tmp_path / "model"), device="cpu")
    proteins = []
    for seed in range(3):
        sequence = letters(protein(60, seed))
        shown = torch.cat(attention_contacts.attention_maps(model, sequence)).numpy()[2]
        resolved = np.arange(60) >= 20
        both = resolved[:, None] & resolved
        threshold = np.sort(shown[both & (np.subtract.outer(np.arange(60), np.arange(60)) >= 6)])[-40]
        proteins.append(SolvedChain(sequence, both & (shown >= threshold), resolved))
    readout = attention_contacts.fit(model, proteins)
    assert readout.heads == [2]
    assert readout.precision["best-heads"] == 1  # the 40 highest of 40 resolved residues


def test_the_regression_minimises_the_penalised_loss():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(500, 4)).astype(np.float32)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    y = generator.random(500) < 1 / (1 + np.exp(-(x @ [1.0, -2.0, 0.0, 0.5] - 1)))
    weights = generator.integers(1, 4, 500)
    found, intercept = attention_contacts.fit_regression(x * 10 + 3, y, weights.astype(float))

    repeated, targets = torch.from_numpy(x).repeat_interleave(torch.tensor(weights), 0).double(), np.repeat(y, weights)
    values = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([values], max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = repeated @ values[:4] + values[4]
        mean = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(targets).double())
        total = mean + attention_contacts.PENALTY * values[:4].square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    wanted = values.detach().numpy()
    np.testing.assert_allclose(found * 10, wanted[:4], atol=2e-3)
    assert intercept + 3 * found.sum() == pytest.approx(wanted[4], abs=2e-3)


def test_contacts_of_a_fine_tuned_head(tmp_path: Path, fasta: Path):
    finetuning.run(composed("task=contact", f"output={tmp_path}", "keep_weights=true", "seeds=1", "task.tokens=2048"))
    stage = home(tmp_path, "contact")
    for arguments in ((), ("--method", "head")):
        assert run("contacts", fasta, "--model", stage, "--out", tmp_path / "out.npz", *arguments, *CPU)[0] == 0
    (best,) = stage.glob("seed-0/best/step-*")
    weights = checkpoint.load_weights(best)
    module = downstream("contact")(composed("task=contact").task, weights.config).eval()
    checkpoint.restore(module.parts(), weights)
    maps = np.load(tmp_path / "out.npz")
    for name, sequence in SEQUENCES.items():
        tokens = torch.tensor([vocabulary.CLS, *vocabulary.encode(sequence)])
        starts = torch.tensor([0, len(tokens)], dtype=torch.int32)
        with torch.inference_mode():
            (logits,) = module.head(module.backbone(tokens, starts, len(tokens)), starts)
        np.testing.assert_allclose(maps[name], logits.sigmoid(), atol=1e-5)
    assert_refused(run("predict", "contact", fasta, "--model", stage), "use proteinlm contacts")
    refused = run("contacts", fasta, "--model", stage, "--out", tmp_path / "out.npz", "--fit", "synthetic")
    assert_refused(refused, "--method head has its own weights")
    refused = run("contacts", fasta, "--model", stage, "--out", tmp_path / "out.txt")
    assert_refused(refused, "does not end in .npz")
    assert_refused(run("contacts", fasta, "--model", tmp_path, "--out", tmp_path / "o.npz"), "no model.safetensors")
