"""Contacts of alignments are scored beside the rows of a sweep, on the same chains, once."""

import json
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from experiments import aligned_chains, alignments
from experiments.sweep import score_alignments
from proteinlm import load
from proteinlm.config import FilesDataConfig, ModelConfig, SyntheticDataConfig
from proteinlm.data.alignments.reading import Alignment
from proteinlm.errors import InputError
from proteinlm.inference.attention_contacts import SolvedChain
from proteinlm.inference.msa import MSAReader
from proteinlm.inference.neural_potts import potts_of
from proteinlm.interop.esm_msa import save_model
from proteinlm.models.msa_transformer import MSATransformer, Shape
from proteinlm.records import contact_map, predictions
from proteinlm.records.contact_map import ContactMap
from proteinlm.records.results import Score
from proteinlm.tasks.metrics import ContactPrecision
from tests.experiments.sweeps import result_of
from tests.inference.models import saved

CONFIG = SyntheticDataConfig(folds=20, labelled=0.04)  # three test chains


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep of one row, whose contacts are random."""
    place = tmp_path / "hidden-8/contact"
    place.mkdir(parents=True)
    metric = ContactPrecision()
    generator = torch.Generator().manual_seed(0)
    for record, (_, chain) in aligned_chains.chains(CONFIG, 2, ("test",)):
        length = len(chain.letters)
        scores = torch.rand(length, length, generator=generator)
        metric.update(scores, torch.from_numpy(chain.contacts), torch.from_numpy(chain.resolved), record)
    _, (_, chain) = next(islice(aligned_chains.chains(CONFIG, 2, ("test",)), 1, None))
    nothing = np.zeros(chain.contacts.shape, np.float32)
    contact_map.save(place, ContactMap("made up", 1, 3, nothing, chain.contacts, chain.resolved))
    predictions.save(place, {("test", name): sample for name, sample in metric.per_record().items()})
    (place / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create({"data": asdict(CONFIG)})))
    return tmp_path


def test_alignments_stand_beside_the_rows(
    sweep: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    words = ["--sweep", str(sweep), "--chains", "2", "--steps", "2"]
    assert alignments.main(words) == 0
    first = capsys.readouterr().out
    scored = json.loads((sweep / "alignments/scores.json").read_text())["scores"]
    made = ["neural Potts", "neural Potts, untrained", "MSA Transformer"]
    assert list(scored) == ["potts", "potts, evidence", "mean field", "separation alone", *made, "hidden-8"]
    assert {score["n"] for scores in scored.values() for score in scores} == {2}
    best = {name: scores[2]["value"] for name, scores in scored.items()}  # P@L/5
    assert best["potts"] >= 0.8
    assert best["mean field"] >= 0.8
    assert max(best["separation alone"], best["hidden-8"]) < 0.4
    drawn = contact_map.load(sweep / "alignments")
    assert (drawn.name, drawn.record) == ("made up", 1)
    assert drawn.precision(6, 5) >= 0.8
    read = contact_map.load(sweep / "alignments/msa-transformer")
    assert (read.name, read.record) == ("made up", 1)
    (number, (alignment, _)) = next(islice(aligned_chains.chains(CONFIG, 250, ("test",)), 1, None))
    expected = MSAReader(sweep / "alignments/msa-transformer", torch.device("cpu")).contacts(alignment)
    assert number == 1
    np.testing.assert_allclose(read.probabilities, expected, atol=1e-5)
    table = first[first.index("\nContacts on the test chains that have an alignment, 2 of them") :]
    guessed = contact_map.load(sweep / "alignments/neural-potts")
    model = load(sweep / "alignments/neural-potts", device="cpu")
    scores = potts_of(model, alignment.query).contacts()
    pairs = np.triu_indices(guessed.length, 6)
    order = np.argsort(guessed.logits[pairs])
    assert (np.diff(scores.numpy()[pairs][order]) >= -1e-5).all()  # another scale, the same order
    monkeypatch.setattr(alignments, "chains", lambda *_: pytest.fail("computed again"))
    alignments.main(words)
    assert capsys.readouterr().out == table
    assert score_alignments(sweep, "smoke") == 0  # in a process of its own, which reads what is saved
    assert capsys.readouterr().out == table


def test_the_neural_potts_model_is_over_the_best_backbone(sweep: Path, monkeypatch: pytest.MonkeyPatch):
    """That of the lowest perplexity, of rows whose attention can be read; it is a method of its own."""
    for name, perplexity in (("hidden-8", 7.0), ("hidden-16", 6.0), ("resnet", 5.0)):
        place = sweep / name / "pretrain"
        place.mkdir(parents=True)
        result = replace(result_of("hidden-512-layer-32-head-8", "pretrain"), row=name)
        score = Score("masked_language_model", "valid", "perplexity", perplexity, None, None, 3)
        replace(result, scores=[score]).save(place)
        saved(place / "model", ModelConfig(8 * len(name), 1, 2, max_positions=128))
    monkeypatch.setattr(alignments, "pseudo_likelihood", lambda aligned: aligned.chain.contacts.astype(np.float32))
    monkeypatch.setattr(alignments, "mean_field", lambda aligned: aligned.chain.contacts.astype(np.float32))
    assert alignments.main(["--sweep", str(sweep), "--chains", "2", "--depth", "4", "--steps", "1"]) == 0
    found = json.loads((sweep / "alignments/scores.json").read_text())
    assert found["backbone"] == "hidden-16"
    assert {"neural Potts", "attention of its backbone"} <= found["scores"].keys()
    assert load(sweep / "alignments/neural-potts", device="cpu").config.hidden_size == 8 * len("hidden-16")


def test_an_msa_transformer_is_a_row_that_an_earlier_table_does_not_hide(
    sweep: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
    weights = tmp_path_factory.mktemp("msa")
    torch.manual_seed(0)
    shape = Shape(8, 1, 2, 16, max_positions=300, max_rows=8)
    save_model(weights, shape, MSATransformer(shape).state_dict())
    monkeypatch.setattr(alignments, "pseudo_likelihood", lambda aligned: aligned.chain.contacts.astype(np.float32))
    monkeypatch.setattr(alignments, "mean_field", lambda aligned: aligned.chain.contacts.astype(np.float32))
    words = ["--sweep", str(sweep), "--chains", "2", "--depth", "4", "--steps", "1"]
    assert alignments.main(words) == 0
    own = json.loads((sweep / "alignments/scores.json").read_text())
    assert alignments.main([*words, "--msa-transformer", str(weights)]) == 0
    assert json.loads((sweep / "alignments/scores.json").read_text())["msa_transformer"] != own["msa_transformer"]
    found = json.loads((sweep / "alignments/scores.json").read_text())["scores"]["MSA Transformer"]
    reader = MSAReader(weights, torch.device("cpu"))
    of_chain = islice(aligned_chains.chains(CONFIG, 4, ("test",)), 2)
    samples = alignments.score(of_chain, {"here": lambda aligned: reader.contacts(aligned.alignment)})["here"]
    assert [each["value"] for each in found] == pytest.approx([samples[name].estimate() for name in alignments.COLUMNS])
    assert {each["n"] for each in found} == {2}
    assert max(each["value"] for each in found) > 0


def test_an_alignment_is_scored_on_the_stretch_that_it_covers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    chain = SolvedChain(np.frombuffer(b"MKACDEFW", np.uint8), np.arange(64).reshape(8, 8) % 3 == 0, np.arange(8) != 3)
    source = type("Source", (), {"records": lambda self, split: [{}]})()
    monkeypatch.setattr(aligned_chains.sources, "labelled", lambda *_: source)
    monkeypatch.setattr(aligned_chains, "solved", lambda record: chain)
    config = FilesDataConfig(root=str(tmp_path))
    with pytest.raises(InputError, match="no alignment in it"):
        next(aligned_chains.chains(config, 2, ("test",)))
    (tmp_path / "alignments").mkdir()
    (tmp_path / "alignments/a.a3m").write_text(">q\nWWWW\n>b\nACDE\n")
    with pytest.raises(InputError, match="none of its alignments belongs to a chain"):
        list(aligned_chains.chains(config, 2, ("test",)))
    (tmp_path / "alignments/b.a3m").write_text(">q\nACDE\n>b\nA-DE\n")
    ((number, found),) = aligned_chains.chains(config, 2, ("test",))
    assert number == 0
    assert isinstance(found.alignment, Alignment)
    np.testing.assert_array_equal(found.chain.contacts, chain.contacts[2:6, 2:6])
    np.testing.assert_array_equal(found.chain.resolved, [True, False, True, True])
