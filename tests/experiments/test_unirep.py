"""UniRep's rank correlations are those of its likelihoods with what was measured, beside ProteinGym's numbers."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from experiments.benchmark import unirep
from proteinlm.errors import InputError
from tests.data.samples import protein
from tests.interop.test_unirep import archive, log_likelihood


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """GFP and beta-lactamase of 12 residues. Among them are a wild type, stops written in two ways, and a variant that
    changes nothing.
    """
    for split, seeds in {"train": range(8), "valid": range(8, 11), "test": range(11, 15)}.items():
        records = [{"primary": protein(12, seed), "num_mutations": 1, "log_fluorescence": [seed % 5]} for seed in seeds]
        records.append({"primary": protein(12, 99), "num_mutations": 0, "log_fluorescence": [9.0]})
        records.append({"primary": protein(11, 98) + "*", "num_mutations": 1, "log_fluorescence": [9.0]})
        records.append({"primary": protein(11, 97), "num_mutations": 1, "log_fluorescence": [9.0]})
        _write(tmp_path / f"tape/fluorescence/fluorescence_{split}.json.gz", json.dumps(records))
    lines = [f">{seed}|beta-lactamase_A{seed}W|{seed % 4}\n{protein(12, seed)}\n" for seed in range(10, 20)]
    lines.append(f">99|beta-lactamase_A1A|9\n{protein(12, 99)}\n")
    _write(tmp_path / "benchmarks" / unirep.BETA_LACTAMASE, "".join(lines))
    table = "DMS ID,Unirep\nGFP_A,0.05\nBLAT_B,0.1\nBLAT_C,0.2\nOTHER,0.9\n"
    _write(tmp_path / "benchmarks" / unirep.BY_ASSAY, table)
    return tmp_path


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(text.encode()))


def test_the_printed_correlations(data: Path, capsys: pytest.CaptureFixture[str]):
    arrays = dict(np.load(archive(data / "weights.npz")))
    assert unirep.main([str(data / "weights.npz"), str(data)]) == 0
    green, published_green, lactamase, published_lactamase = capsys.readouterr().out.splitlines()
    logs = [log_likelihood(arrays, "M" + protein(12, seed)) for seed in range(15)]
    assert f"Spearman {spearmanr(logs, [seed % 5 for seed in range(15)])[0]:.3f} [" in green
    assert "15 variants" in green
    logs = [log_likelihood(arrays, protein(12, seed)) for seed in range(10, 20)]
    assert f"Spearman {spearmanr(logs, [seed % 4 for seed in range(10, 20)])[0]:.3f} [" in lactamase
    assert "10 variants" in lactamase
    assert published_green.endswith(": GFP_A 0.050")
    assert published_lactamase.endswith(": BLAT_B 0.100, BLAT_C 0.200")


def test_missing_data_is_named(data: Path):
    archive(data / "weights.npz")
    (data / "tape/fluorescence/fluorescence_valid.json.gz").unlink()
    with pytest.raises(InputError, match=r"fluorescence_valid\.json: no such file"):
        unirep.main([str(data / "weights.npz"), str(data)])
