"""What is no residue is refused, dropped or taken as [UNK], as was asked, alike in every format, and counted."""

import logging
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from proteinlm import vocabulary
from proteinlm.cli import app
from proteinlm.config import CsvDataConfig, CustomTaskConfig, FilesDataConfig
from proteinlm.data import csv_labels, sources, store
from proteinlm.data.formats.fasta import read_fasta
from proteinlm.data.formats.letters import Letters
from proteinlm.errors import InputError
from tests.data.samples import ignore, tape_record, write_fasta, write_tape

PRODIGAL = ">c_1 # 2 # 181 # 1 # ID=1_1;partial=10\nMKV\nLAA*\n>c_2\nMTR*\n"
A3M = ">query\nMKV-LAA\n>hit\nMKvv.V-L-A\n"
PFAM = ">Q8XYZ1_9BACT/25-180\n..mkV.LAA...\n"


def read(path: Path, text: str, choice: str) -> tuple[list[str], Letters]:
    path.write_text(text)
    letters = Letters(choice)
    return [
        part.tobytes().decode()
        for block in read_fasta(path, ignore, letters)
        for part in np.split(block.letters, np.cumsum(block.lengths)[:-1])
    ], letters


@pytest.mark.parametrize(
    ("name", "text", "proteins", "summary"),
    [
        ("p.faa", PRODIGAL, ["MKVLAA", "MTR"], "dropped 2 stops at the end"),
        ("p.a3m", A3M, ["MKVLAA", "MKVLA"], "dropped 4 gaps, 2 insert states"),
        ("p.fasta", A3M, ["MKVLAA", "MKVVVLA"], "dropped 4 gaps"),
        ("p.fa", PFAM, ["MKVLAA"], "dropped 6 gaps"),
        ("p.fasta", ">soft-masked\nMKVlaa\n", ["MKVLAA"], ""),
        ("p.a2m", ">stop behind gaps\nMKV*--\nvv*\n", ["MKV"], "dropped 2 stops at the end, 2 gaps, 2 insert states"),
    ],
)
def test_files_of_daily_life_are_read_clean(tmp_path: Path, name: str, text: str, proteins: list[str], summary: str):
    found, letters = read(tmp_path / name, text, "clean")
    assert found == proteins
    assert letters.summary() == (f"letters=clean: {summary}" if summary else "")


@pytest.mark.parametrize(
    ("text", "choice", "message"),
    [
        (
            PRODIGAL,
            "strict",
            "record 0 (c_1), line 3: letter '*' at position 7 is not one of {}; letters=clean drops gaps",
        ),
        (
            PFAM,
            "strict",
            "record 0 (Q8XYZ1_9BACT/25-180), line 2: letter '.' at position 1 is not one of {}; letters=cl",
        ),
        (
            ">a\nAC\n>b\nMK*V*\n",
            "clean",
            "record 1 (b), line 4: letter '*' at position 3 is not one of {}; letters=unkn",
        ),
        (
            ">a\nM-KJ\n",
            "clean",
            "record 0 (a), line 2: letter 'J' at position 3 is not one of {}; letters=unknown takes",
        ),
        (">a\n--*\n", "clean", "record 0 (a), line 1: a header without sequence"),
    ],
)
def test_what_the_choice_does_not_allow_names_record_and_place(tmp_path: Path, text: str, choice: str, message: str):
    with pytest.raises(InputError, match=re.escape(message.format(vocabulary.RESIDUES))):
        read(tmp_path / "p.fasta", text, choice)


def test_unknown_letters_become_the_token_for_them(tmp_path: Path):
    found, letters = read(tmp_path / "p.fasta", ">a\nMJ*k1?-V*\n>b\nAC\n", "unknown")
    assert found == ["M??K??V", "AC"]
    tokens = vocabulary.encode_bytes(np.frombuffer(found[0].encode(), np.uint8))
    assert vocabulary.decode(tokens) == "M[UNK][UNK]K[UNK][UNK]V"
    assert letters.unknown == {"J": 1, "*": 1, "1": 1, "?": 1}
    assert letters.summary() == (
        "letters=unknown: dropped 1 stops at the end, 1 gaps; "
        "took 4 letters as [UNK] ('*' 1 times, '1' 1 times, '?' 1 times, 'J' 1 times)"
    )


def naive(sequence: str, choice: str, aligned: bool) -> str:
    """Letter by letter, from the end."""
    kept: list[str] = []
    for letter in reversed(sequence):
        if letter in "-." or (aligned and letter in vocabulary.RESIDUES.lower()) or (letter == "*" and not kept):
            continue
        if letter.upper() in vocabulary.RESIDUES:
            kept.append(letter.upper())
        elif choice == "unknown":
            kept.append("?")
        else:
            raise InputError(letter)
    if not kept:
        raise InputError("nothing left")
    return "".join(reversed(kept))


@given(
    st.lists(st.text("ACDacd*-.J5", min_size=1, max_size=9), min_size=1, max_size=6),
    st.sampled_from(["clean", "unknown"]),
    st.booleans(),
)
def test_blocks_and_single_sequences_are_cleaned_as_letter_by_letter(
    tmp_path_factory: pytest.TempPathFactory, sequences: list[str], choice: str, aligned: bool
):
    expected: list[str] = []
    good: list[str] = []
    refused = False
    for sequence in sequences:
        try:
            expected.append(naive(sequence, choice, aligned))
        except InputError:
            refused = True
            with pytest.raises(InputError):
                Letters(choice).clean(sequence, aligned=aligned)
            break
        good.append(sequence)
        assert Letters(choice).clean(sequence, aligned=aligned) == expected[-1]
    path = tmp_path_factory.getbasetemp() / ("p.a3m" if aligned else "p.fasta")
    text = "".join(f">r{number}\n{sequence}\n" for number, sequence in enumerate(sequences))
    if refused:
        with pytest.raises(InputError, match=rf"record {len(good)} \(r{len(good)}\)"):
            read(path, text, choice)
        return
    found, letters = read(path, text, choice)
    assert found == expected
    every = Counter("".join(sequences))
    assert letters.gaps == every["-"] + every["."]
    assert letters.inserts == (sum(every[letter] for letter in "acd") if aligned else 0)
    assert letters.stops + letters.unknown.total() == every["*"] + every["J"] + every["5"]


def test_a_store_is_built_for_each_choice(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for split in sources.SPLITS:
        write_fasta(tmp_path / "data", split, ["MKVLAA*", "MTR"])
    config = FilesDataConfig(root=str(tmp_path / "data"), cache=str(tmp_path / "cache"), letters="clean")
    with caplog.at_level(logging.WARNING):
        corpus = sources.corpus(config)
    (line, *_) = [record.getMessage() for record in caplog.records]
    assert line == f"{tmp_path}/data/pretrain/pretrain_holdout.fasta: letters=clean: dropped 1 stops at the end"
    assert corpus.splits["train"].letters(0).tobytes() == b"MKVLAA"
    config.letters = "strict"
    with pytest.raises(InputError, match=r"letter '\*' at position 7"):
        sources.corpus(config)
    built = store.ensure(tmp_path / "data", tmp_path / "cache", "clean").directory
    assert sources.corpus(FilesDataConfig(root=str(built), letters="clean")).fingerprint == corpus.fingerprint
    with pytest.raises(InputError, match=r"a store built with letters=clean, not strict"):
        sources.corpus(FilesDataConfig(root=str(built)))


def test_the_command_that_builds_takes_the_choice(tmp_path: Path):
    write_fasta(tmp_path / "data", "train", ["MKVLAA*", "MJR"])
    arguments = ["data", "build", str(tmp_path / "data"), "--to", str(tmp_path / "store")]
    assert "letter 'J'" in CliRunner().invoke(app, [*arguments, "--letters", "clean"]).output
    answer = CliRunner().invoke(app, [*arguments, "--letters", "unknown"])
    assert answer.exit_code == 0, answer.output
    assert store.open(tmp_path / "store").sequences().letters(1).tobytes() == b"M?R"
    answer = CliRunner().invoke(app, [*arguments, "--letters", "lenient"])
    assert (answer.exit_code, answer.output) == (2, "error: --letters=lenient is not one of strict, clean, unknown\n")


def test_labels_of_residues_forbid_that_letters_are_dropped(tmp_path: Path):
    records = [tape_record("secondary_structure", 0), tape_record("stability", 0)]
    for record in records:
        record["primary"] = record["primary"][:-1] + "*"
    for task, record in zip(("secondary_structure", "stability"), records, strict=True):
        write_tape(tmp_path / task, task, "train", [record])
    with pytest.raises(InputError, match=r"record 0 .*: letters=clean would drop 1 letters, for which ss3 has values"):
        store.ensure(tmp_path / "secondary_structure", tmp_path / "cache", "clean")
    (read_back,) = store.ensure(tmp_path / "stability", tmp_path / "cache", "clean").records("stability", "train")
    assert read_back["primary"] == records[1]["primary"][:-1]
    assert read_back["protein_length"] == len(read_back["primary"])


def test_a_table_of_labels_is_cleaned_too(tmp_path: Path):
    path = tmp_path / "mine.csv"
    path.write_text("sequence,label,split\nMKV*,a,train\nMJR,b,train\nMA-C,a,valid\n")

    def opened(choice: str) -> sources.Labelled:
        return csv_labels.open_labels(CsvDataConfig(csv=str(path), letters=choice), CustomTaskConfig())[0]

    with pytest.raises(InputError, match=r"mine.csv, line 2: letter '\*' at position 4 .*letters=clean"):
        opened("strict")
    with pytest.raises(InputError, match=r"mine.csv, line 3: letter 'J' at position 2 .*letters=unknown"):
        opened("clean")
    source = opened("unknown")
    assert [record["primary"] for record in source.records("train")] == ["MKV", "M?R"]
    assert (
        "letters=unknown: dropped 1 stops at the end, 1 gaps; took 1 letters as [UNK] ('J' 1 times)" in source.remarks
    )
