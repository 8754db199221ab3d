"""Scores of variants and pseudo-perplexities are sums of what the model says of each position, hidden by itself."""

import csv
import gzip
import lzma
import math
import string
from pathlib import Path

import numpy as np
import pytest
import torch

from proteinlm import checkpoint, vocabulary
from proteinlm.data.batches.packing import Packed
from proteinlm.errors import InputError
from proteinlm.inference import likelihoods
from proteinlm.inference.model import Model, load
from proteinlm.models.backbone import Backbone
from proteinlm.models.heads import LanguageModelHead
from tests.data.samples import protein
from tests.inference.commands import assert_refused, run
from tests.inference.models import CONFIG, saved

WILDTYPE = protein(70)
MODEL = ("--device", "cpu", "--batch-tokens", 150)  # two copies at once


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("model"))


def logs(directory: Path, sequence: str, position: int) -> np.ndarray:
    """Log-probabilities (V,) at `position`, from 0, by the bare modules."""
    backbone, head = Backbone(CONFIG).eval(), LanguageModelHead(CONFIG)
    checkpoint.restore({"backbone": backbone, "head": head}, checkpoint.load_weights(directory))
    tokens = torch.tensor([vocabulary.CLS, *vocabulary.encode(sequence)])
    tokens[position + 1] = vocabulary.MASK
    with torch.inference_mode():
        hidden = backbone(tokens, torch.tensor([0, len(tokens)], dtype=torch.int32), len(tokens))
        return head(hidden, backbone.token_embedding.weight)[position + 1].log_softmax(-1).numpy()


def effect(directory: Path, *mutations: tuple[int, str]) -> float:
    """Sum of log-odds of letters put at positions, from 0."""
    total = 0.0
    for position, letter in mutations:
        at = logs(directory, WILDTYPE, position)
        total += float(at[vocabulary.IDS[letter]] - at[vocabulary.IDS[WILDTYPE[position]]])
    return total


def write(directory: Path, lines: list[str]) -> tuple[Path, Path]:
    fasta, variants = directory / "wt.fasta", directory / "mutants.csv"
    fasta.write_text(f">wt\n{WILDTYPE}\n")
    variants.write_text("\n".join(lines) + "\n")
    return fasta, variants


def named(*mutations: tuple[int, str], first: int = 1) -> str:
    return ":".join(f"{WILDTYPE[position]}{position + first}{letter}" for position, letter in mutations)


def test_scores_are_sums_of_log_odds(model: Path, tmp_path: Path):
    variants = [((3, "W"),), ((3, "A"), (69, "Y")), ((0, "M"), (11, "C"), (3, "W")), ()]
    body = [f'"{named(*variant)}",{number},"a, b"' for number, variant in enumerate(variants)]
    fasta, mutants = write(tmp_path, ["mutant,measured,note", *body])
    for out, source in ((tmp_path / "out.csv", mutants), (tmp_path / "packed.csv", tmp_path / "mutants.csv.gz")):
        (tmp_path / "mutants.csv.gz").write_bytes(gzip.compress(mutants.read_bytes()))
        assert run("score", fasta, source, "--model", model, "--out", out, *MODEL)[0] == 0
        rows = list(csv.DictReader(out.open()))
        assert [row["note"] for row in rows] == ["a, b"] * 4
        found = [float(row["score"]) for row in rows]
        np.testing.assert_allclose(found, [effect(model, *variant) for variant in variants], atol=1e-4)
    assert found[3] == 0
    assert not list(tmp_path.glob(".*"))


def test_a_list_of_wild_types_alone_has_nothing_to_compute(model: Path, tmp_path: Path):
    fasta, mutants = write(tmp_path, ["mutant", "WT"])
    assert run("score", fasta, mutants, "--model", model, "--out", tmp_path / "out.csv", *MODEL)[0] == 0
    (row,) = csv.DictReader((tmp_path / "out.csv").open())
    assert float(row["score"]) == 0


def test_another_column_and_another_first_number(model: Path, tmp_path: Path):
    fasta, mutants = write(tmp_path, ["name", named((3, "W"), first=-5).lower()])
    options = ("--column", "name", "--first", -5)
    assert run("score", fasta, mutants, "--model", model, "--out", tmp_path / "out.csv", *options, *MODEL)[0] == 0
    (row,) = csv.DictReader((tmp_path / "out.csv").open())
    assert float(row["score"]) == pytest.approx(effect(model, (3, "W")), abs=1e-4)


def test_bad_variants_are_one_line_with_the_place(model: Path, tmp_path: Path):
    right = named((3, "W"))
    for lines, message in (
        (["mutant", right, "4W"], "line 3: '4W' is no mutation such as A24G"),
        (["mutant", f"{WILDTYPE[0]}71W"], "line 2: "),
        (["mutant", named((3, "W")).replace(WILDTYPE[3], "X", 1)], f"X4W, but the wild type has {WILDTYPE[3]} there"),
        (["mutant", named((3, "J"))], "letter 'J' is not one of"),
        (["mutant", "", named((3, "W"), (5, "A"), (3, "A"))], "line 3: "),
        (["mutant", named((3, "W"), (3, "W"))], "are two mutations of one position"),
        (["mutant,score", f"{right},1"], "has a column score already: name another by --column-out"),
        (["mutant,mutant", f"{right},{right}"], "several columns mutant"),
        (["mutant", "K2*"], "line 2: 'K2*' is no mutation such as A24G; --skip-unknown leaves such out"),
        (["name", right], "no column mutant, but name"),
        (["mutant,a", right], "line 2: 1 fields under 2 names"),
    ):
        fasta, mutants = write(tmp_path, lines)
        assert_refused(run("score", fasta, mutants, "--model", model, "--out", tmp_path / "out.csv", *MODEL), message)
    fasta, mutants = write(tmp_path, ["mutant", right])
    fasta.write_text(fasta.read_text() * 2)
    assert_refused(run("score", fasta, mutants, "--model", model, "--out", tmp_path / "out.csv"), "a name that came")
    fasta.write_text(f">a\n{WILDTYPE}\n>b\n{WILDTYPE}\n")
    assert_refused(run("score", fasta, mutants, "--model", model, "--out", tmp_path / "out.csv"), "2 records, not")
    fasta.write_text(f">a\n{'A' * 128}\n")
    assert_refused(run("score", fasta, mutants, "--model", model, "--out", tmp_path / "out.csv"), "more than the 127")
    fasta.write_text(f">a\n{WILDTYPE}\n")
    headless = saved(tmp_path / "headless", head=False)
    refused = run("score", fasta, mutants, "--model", headless, "--out", tmp_path / "out.csv")
    assert_refused(refused, "no language-model head in it")
    assert not (tmp_path / "out.csv").exists()


def scores(directory: Path, content: bytes, model: Path, name: str = "mutants.csv", *options: object) -> list[dict]:
    """The rows that ``score`` writes for a file of this content."""
    fasta, out = directory / "wt.fasta", directory / "out.csv"
    fasta.write_text(f">wt\n{WILDTYPE}\n")
    (directory / name).write_bytes(content)
    code, _, errors = run("score", fasta, directory / name, "--model", model, "--out", out, *options, *MODEL)
    assert code == 0, errors
    header = out.read_text().splitlines()[0]
    return list(csv.DictReader(out.open(), delimiter=header[len(header.rstrip(string.ascii_letters)) - 1]))


def test_tables_are_read_as_spreadsheets_write_them(model: Path, tmp_path: Path):
    one, two = named((3, "W")), named((3, "A"), (69, "Y"))
    plain = f"mutant,measured\n{one},1\n{two},2\n"
    wanted = [effect(model, (3, "W")), effect(model, (3, "A"), (69, "Y"))]
    tabs, semicolons = plain.replace(",", "\t"), plain.replace(",", ";")
    for content in (
        plain.encode(),
        f"{plain}\n\n,\n".encode(),
        plain.replace("\n", "\r\n").encode("utf-8-sig"),
        tabs.encode(),
        tabs.encode("utf-16"),
        semicolons.replace("measured", '"measured, at 20 °C"').encode(),
        f'mutant,"a;b;c"\n{one},"0;1"\n{two},'.encode(),
        f"number;mutant\n0,5;{one}\n1,5;{two.replace(':', ',')}".encode(),
    ):
        rows = scores(tmp_path, content, model)
        assert [row["mutant"].replace(",", ":") for row in rows] == [one, two]
        np.testing.assert_allclose([float(row["score"]) for row in rows], wanted, atol=1e-4)
    for name, pack in (("mutants.csv.gz", gzip.compress), ("mutants.tsv.xz", lzma.compress)):
        assert len(scores(tmp_path, pack(plain.encode()), model, name)) == 2
    fasta, latin = tmp_path / "wt.fasta", tmp_path / "latin.csv"
    latin.write_bytes("mutant,größe\n".encode("latin-1"))
    assert_refused(run("score", fasta, latin, "--model", model, "--out", tmp_path / "o.csv"), "not UTF-8")
    assert_refused(run("score", fasta, latin, "--model", model, "--out", tmp_path / "o.csv.gz"), "leave out .gz")


def test_a_column_of_scores_is_not_written_twice(model: Path, tmp_path: Path):
    content = f"mutant,score\n{named((3, 'W'))},7\n".encode()
    (row,) = scores(tmp_path, content, model, "mutants.csv", "--column-out", "proteinlm")
    assert row["score"] == "7"
    assert float(row["proteinlm"]) == pytest.approx(effect(model, (3, "W")), abs=1e-4)


def test_unknown_variants_are_left_out_and_listed(model: Path, tmp_path: Path):
    unknown = [f"{WILDTYPE[1]}2*", f"{WILDTYPE[1]}2=", "p.Lys2Ala", f"{named((3, 'W'))}:{WILDTYPE[1]}2J"]
    fasta, mutants = write(tmp_path, ["mutant", unknown[0], named((3, "W")), *unknown[1:], *["x"] * 20])
    command = ("score", fasta, mutants, "--model", model, "--out", tmp_path / "out.csv", *MODEL)
    assert_refused(run(*command), "--skip-unknown leaves such out")
    code, _, errors = run(*command, "--skip-unknown")
    assert code == 0
    places = [f"line {line}: {name}" for line, name in zip((2, 4, *range(5, 23)), [*unknown, *["x"] * 16], strict=True)]
    assert errors == f"no score for 24 unknown variants: {', '.join(places)}, and 4 more\n"
    found = [row["score"] for row in csv.DictReader((tmp_path / "out.csv").open())]
    assert float(found.pop(1)) == pytest.approx(effect(model, (3, "W")), abs=1e-4)
    assert found == [""] * 24
    mutants.write_text(f"mutant\n{'W' if WILDTYPE[3] != 'W' else 'A'}4Y\n")  # a fault of the table, not an unknown
    assert_refused(run(*command, "--skip-unknown"), f"but the wild type has {WILDTYPE[3]} there")


def test_the_mutated_sequence_must_agree_with_the_mutations(model: Path, tmp_path: Path):
    mutated = WILDTYPE[:3] + "W" + WILDTYPE[4:]
    lines = ["mutant,mutated_sequence", f"{named((3, 'W'))},{mutated.lower()}", f"WT,{WILDTYPE}", f"{named((3, 'W'))},"]
    fasta, mutants = write(tmp_path, lines)
    command = ("score", fasta, mutants, "--model", model, "--out", tmp_path / "out.csv", *MODEL)
    assert run(*command)[0] == 0
    other = "A" if WILDTYPE[9] != "A" else "C"
    for sequence, message in (
        (WILDTYPE, f"has {WILDTYPE[3]} as residue 4, the wild type with these mutations W"),
        (mutated[:9] + other + mutated[10:], f"has {other} as residue 10, the wild type with these mutations"),
        (mutated[1:], "has 69 residues, the wild type 70"),
    ):
        write(tmp_path, [*lines, f"{named((3, 'W'))},{sequence}"])
        assert_refused(run(*command), f"{mutants}: line 5: mutated_sequence {message}")


class Killed(BaseException):
    """Stands in for a signal."""


def test_scoring_goes_on_where_it_was_killed(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    variants = [named((position, "W" if WILDTYPE[position] != "W" else "A")) for position in range(60)]
    fasta, mutants = write(tmp_path, ["mutant", *variants])
    command = ("score", fasta, mutants, "--model", model, *MODEL, "--out")
    run(*command, tmp_path / "whole.csv")
    compute, done = likelihoods.masked_log_probabilities, []

    def computed_or_killed(model, letters: np.ndarray, positions: np.ndarray) -> np.ndarray:
        if len(done) == 2 and not killed:
            killed.append(True)
            raise Killed
        done.append(positions.tolist())
        return compute(model, letters, positions)

    monkeypatch.setattr(likelihoods, "masked_log_probabilities", computed_or_killed)
    killed: list[bool] = []
    with pytest.raises(Killed):
        run(*command, tmp_path / "out.csv")
    assert run(*command, tmp_path / "out.csv")[0] == 0
    assert [position for part in done for position in part] == list(range(60))
    assert [len(part) for part in done] == [16, 16, 16, 12]  # of eight batches of two copies
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def killed_after(monkeypatch: pytest.MonkeyPatch, parts: int, *command: object) -> None:
    """Run a command that is killed when it has computed so many parts."""
    compute, done = likelihoods.masked_log_probabilities, []

    def computed_or_killed(*arguments) -> np.ndarray:
        if len(done) == parts:
            raise Killed
        done.append(True)
        return compute(*arguments)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(likelihoods, "masked_log_probabilities", computed_or_killed)
        run(*command)


def test_parts_of_another_wild_type_are_not_taken(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    variants = [named((position, "W" if WILDTYPE[position] != "W" else "A")) for position in range(60)]
    fasta, mutants = write(tmp_path, ["mutant", *variants])
    command = ("score", fasta, mutants, "--model", model, *MODEL, "--out")
    killed_after(monkeypatch, 2, *command, tmp_path / "out.csv")
    fasta.write_text(f">wt\n{WILDTYPE[:-1]}{'C' if WILDTYPE[-1] != 'C' else 'D'}\n")  # no variant is there
    assert run(*command, tmp_path / "out.csv")[0] == 0
    assert run(*command, tmp_path / "again.csv")[0] == 0
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "again.csv").read_bytes()


def test_a_protein_of_many_passes_is_a_part_of_its_own(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fasta = tmp_path / "in.fasta"
    fasta.write_text("".join(f">p{number}\n{protein(40, number)}\n" for number in range(3)))
    killed_after(monkeypatch, 2, "pppl", fasta, "--model", model, *MODEL, "--out", tmp_path / "out.csv")
    assert len(list((tmp_path / ".out.csv.parts").glob("*.arrow"))) == 2


def test_a_part_ends_where_its_passes_fill_eight_batches(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fasta = tmp_path / "in.fasta"  # 24 passes of 25 tokens each: two proteins are 8 batches of 150 tokens
    fasta.write_text("".join(f">p{number}\n{protein(24, number)}\n" for number in range(4)))
    killed_after(monkeypatch, 2, "pppl", fasta, "--model", model, *MODEL, "--out", tmp_path / "out.csv")
    assert len(list((tmp_path / ".out.csv.parts").glob("*.arrow"))) == 1


def test_a_pass_has_as_many_copies_as_the_batch_has_room_for(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    passes, compute = [], Model.log_probabilities

    def counted(self: Model, packed: Packed, places: torch.Tensor) -> torch.Tensor:
        passes.append((packed.proteins, len(packed.tokens)))
        return compute(self, packed, places)

    monkeypatch.setattr(Model, "log_probabilities", counted)
    fasta = tmp_path / "in.fasta"
    fasta.write_text(f">a\n{protein(4)}\n>b\n{protein(3)}\n")
    assert run("pppl", fasta, "--model", model, "--device", "cpu", "--batch-tokens", 15)[0] == 0
    assert passes == [(3, 15), (1, 5), (3, 12)]
    passes.clear()
    assert run("pppl", fasta, "--model", model, "--device", "cpu", "--batch-tokens", 5)[0] == 0
    assert passes == [(1, 5)] * 4 + [(1, 4)] * 3


def test_a_variant_that_is_none_stops_a_caller_who_did_not_say_otherwise(model: Path, tmp_path: Path):
    fasta, mutants = write(tmp_path, ["mutant", "p.Lys2Ala"])
    with pytest.raises(InputError, match=r"line 2: 'p.Lys2Ala' is no mutation such as A24G"):
        likelihoods.score_variants(load(model, device="cpu"), fasta, mutants, tmp_path / "out.csv")


def test_pseudo_perplexity(model: Path, tmp_path: Path):
    sequences = [protein(length, length) for length in (12, 1, 40)]
    fasta = tmp_path / "in.fasta"
    fasta.write_text("".join(f">p{number}\n{sequence}\n" for number, sequence in enumerate(sequences)))
    code, output, _ = run("pppl", fasta, "--model", model, *MODEL)
    assert code == 0
    assert run("pppl", fasta, "--model", model, "--out", tmp_path / "out.csv", *MODEL)[0] == 0
    assert (tmp_path / "out.csv").read_text() == output
    rows = list(csv.DictReader(output.splitlines()))
    assert [(row["id"], row["length"]) for row in rows] == [("p0", "12"), ("p1", "1"), ("p2", "40")]
    for row, sequence in zip(rows, sequences, strict=True):
        losses = [-logs(model, sequence, place)[vocabulary.IDS[letter]] for place, letter in enumerate(sequence)]
        assert float(row["pseudo_perplexity"]) == pytest.approx(math.exp(np.mean(losses)), rel=1e-4)


def test_a_file_that_pppl_cannot_write_is_refused_before_the_model_is_read(tmp_path: Path):
    (tmp_path / "in.fasta").write_text(">a\nACD\n")
    for name, message in (
        ("out.fasta", "--out: only secondary structure, or labels of residues"),
        ("out.txt", "its name ends in none of .csv, .jsonl, .fasta"),
        ("nowhere/out.csv", "no such directory"),
        ("there.csv", "a directory, not a file to write"),
    ):
        (tmp_path / "there.csv").mkdir(exist_ok=True)
        command = ("pppl", tmp_path / "in.fasta", "--model", tmp_path / "no model", "--out", tmp_path / name)
        assert_refused(run(*command), message)


def test_rows_before_a_bad_record_are_given(model: Path, tmp_path: Path):
    fasta = tmp_path / "in.fasta"
    fasta.write_text(">a\nACD\n>b\nAC\n>c\nAJ\n")
    outcome = run("pppl", fasta, "--model", model, *MODEL)
    assert_refused(outcome, "record 2 (c), line 6: letter 'J' at position 2")
    assert [line.split(",")[0] for line in outcome[1].splitlines()] == ["id", "a", "b"]
