"""A Potts model in plmc's format has every number where that format has it, and is read back equal."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from proteinlm.errors import InputError
from proteinlm.interop import plmc
from proteinlm.models.potts import GAP_STATE, STATES, Potts, states_of
from proteinlm.vocabulary import AMINO_ACIDS

ROWS = [b"ACDW", b"AC-W", b"YCDX"]
WEIGHTS = np.array([0.5, 0.5, 1.0])
SYMBOLS = "-" + AMINO_ACIDS
LETTERS = np.array([[*row] for row in ROWS], np.uint8)


def made_up(length: int, seed: int = 0) -> Potts:
    generator = torch.Generator().manual_seed(seed)
    couplings = torch.randn(length, STATES, length, STATES, generator=generator)
    couplings = couplings + couplings.permute(2, 3, 0, 1)
    couplings[range(length), :, range(length)] = 0
    return Potts(torch.randn(length, STATES, generator=generator), couplings)


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(plmc, "AT_ONCE", 2)
    plmc.write(tmp_path / "x.model", made_up(4), states_of(LETTERS), WEIGHTS, LETTERS[0])
    return tmp_path / "x.model"


def test_every_number_is_where_the_format_has_it(saved: Path):
    """Read one after the other, by loops over columns and letters."""
    with saved.open("rb") as file:
        assert np.fromfile(file, "<i4", 5).tolist() == [4, 21, 3, 0, 0]
        np.testing.assert_allclose(np.fromfile(file, "<f4", 5), [0.2, 10, 0.01 * 20 * 3, 0, 2], rtol=1e-6)
        assert file.read(21).decode() == SYMBOLS
        np.testing.assert_array_equal(np.fromfile(file, "<f4", 3), WEIGHTS)
        assert file.read(4) == ROWS[0]
        assert np.fromfile(file, "<i4", 4).tolist() == [1, 2, 3, 4]
        single, fields = (np.fromfile(file, "<f4", 4 * 21).reshape(4, 21) for _ in range(2))
        pairs, couplings = (
            {ij: np.fromfile(file, "<f4", 21 * 21).reshape(21, 21) for ij in itertools.combinations(range(4), 2)}
            for _ in range(2)
        )
        assert file.read() == b""
    letters = [row.decode().replace("X", "-") for row in ROWS]
    model = made_up(4)
    for i, (a, symbol) in itertools.product(range(4), enumerate(SYMBOLS)):
        share = sum(w for row, w in zip(letters, WEIGHTS, strict=True) if row[i] == symbol) / 2
        assert single[i, a] == pytest.approx(share)
        assert fields[i, a] == model.fields[i, AMINO_ACIDS.find(symbol)]  # find: -1, the last, for the gap
        for j, (b, other) in itertools.product(range(i + 1, 4), enumerate(SYMBOLS)):
            both = sum(w for row, w in zip(letters, WEIGHTS, strict=True) if (row[i], row[j]) == (symbol, other)) / 2
            assert pairs[i, j][a, b] == pytest.approx(both)
            assert couplings[i, j][a, b] == model.couplings[i, AMINO_ACIDS.find(symbol), j, AMINO_ACIDS.find(other)]


def test_it_is_read_back_equal(saved: Path):
    found = plmc.read(saved)
    torch.testing.assert_close(found.model.fields, made_up(4).fields, rtol=0, atol=0)
    torch.testing.assert_close(found.model.couplings, made_up(4).couplings, rtol=0, atol=0)
    assert found.query.tobytes() == ROWS[0]


def test_a_model_without_gaps_gives_them_no_energy(tmp_path: Path):
    """As plmc makes it when it leaves out gaps: 20 letters, here in the reverse order, and two rows left out."""
    symbols, length, model = AMINO_ACIDS[::-1], 3, made_up(3, 1)
    fields, couplings = model.fields[:, :GAP_STATE].flip(1), model.couplings[:, :GAP_STATE, :, :GAP_STATE].flip(1, 3)
    parts = [
        np.array([length, 20, 1, 2, 100], "<i4"),
        np.array([0.2, 0.01, 9.5, 0, 1], "<f4"),
        symbols.encode(),
        np.ones(3, "<f4"),
        b"---",
        np.array([7, 8, 9], "<i4"),
        np.zeros((length, 20), "<f4"),
        fields.numpy(),
        np.zeros((3, 20, 20), "<f4"),
        *(couplings[i, :, j].numpy() for i, j in itertools.combinations(range(length), 2)),
    ]
    (tmp_path / "x.model").write_bytes(b"".join(each if isinstance(each, bytes) else each.tobytes() for each in parts))
    found = plmc.read(tmp_path / "x.model")
    whole = Potts(model.fields.clone(), model.couplings.clone())
    whole.fields[:, GAP_STATE] = 0
    whole.couplings[:, GAP_STATE] = 0
    whole.couplings[:, :, :, GAP_STATE] = 0
    torch.testing.assert_close(found.model.fields, whole.fields, rtol=0, atol=0)
    torch.testing.assert_close(found.model.couplings, whole.couplings, rtol=0, atol=0)
    assert found.query.tobytes() == b"---"


def test_what_is_no_such_file_is_refused(saved: Path, tmp_path: Path):
    whole = saved.read_bytes()
    other = tmp_path / "other.model"
    nan = np.float32("nan").tobytes()
    for content, message in (
        (b"", "an empty file"),
        (b"short", "not a Potts model"),
        (whole[:-1], "not a Potts model"),
        (whole + b"\0", "not a Potts model"),
        (np.array([-1], "<i4").tobytes() + whole[4:], "not a Potts model"),
        (np.array([2**31 - 1], "<i4").tobytes() + whole[4:], "not a Potts model"),
        (whole[:40] + b"A" + whole[41:], "are not the 20 amino acids"),
        (whole[:41] + b"Z" + whole[42:], "are not the 20 amino acids"),
        (whole[:-4] + nan, "no finite number"),
    ):
        other.write_bytes(content)
        with pytest.raises(InputError, match=message):
            plmc.read(other)
    with pytest.raises(InputError, match="No such file"):
        plmc.read(tmp_path / "nowhere")
