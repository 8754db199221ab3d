"""A frozen model ranks ProteinGym's variants as the score command does; parts share the assays, and a run goes on."""

import re
from pathlib import Path

import numpy as np
import pytest

from experiments.benchmark import records, table, zero_shot
from proteinlm.errors import InputError
from proteinlm.inference.likelihoods import score_variants
from proteinlm.inference.model import load
from tests.experiments.benchmarks import TARGET, ask, gym


def test_masked_marginals_are_those_of_the_score_command(weights: Path, tmp_path: Path):
    folder = gym(tmp_path, "a")
    (tmp_path / "wildtype.fasta").write_text(f">w\n{TARGET}\n")
    model = load(weights)
    score_variants(model, tmp_path / "wildtype.fasta", folder / "a.csv", tmp_path / "known.csv")
    known = [line.split(",")[-1] for line in (tmp_path / "known.csv").read_text().splitlines()[1:]]
    list(zero_shot.run(model, tmp_path, "masked_marginals", 1022, (1, 1), tmp_path / "out"))
    ours = [line.split(",")[-1] for line in (tmp_path / "out" / "a.csv").read_text().splitlines()[1:]]
    assert np.array(ours, float) == pytest.approx(np.array(known, float), rel=1e-5)


def test_what_is_visible_gives_other_scores_and_a_likelihood_is_the_variants_own(weights: Path, tmp_path: Path):
    gym(tmp_path, "a")
    model = load(weights)
    scores = {}
    for method in zero_shot.METHODS:
        list(zero_shot.run(model, tmp_path, method, 1022, (1, 1), tmp_path / method))
        lines = (tmp_path / method / "a.csv").read_text().splitlines()[1:]
        scores[method] = {line.split(",")[0]: float(line.split(",")[-1]) for line in lines}
    double = f"{TARGET[0]}1A:{TARGET[20]}21W"
    for method in ("masked_marginals", "wildtype_marginals"):  # both are sums over the mutations
        parts = [scores[method][name] for name in double.split(":")]
        assert scores[method][double] == pytest.approx(sum(parts), rel=1e-5)
    assert scores["masked_marginals"] != scores["wildtype_marginals"]
    mutant = np.frombuffer(("A" + TARGET[1:]).encode(), np.uint8)
    from proteinlm.inference.likelihoods import pseudo_perplexity

    expected = -len(TARGET) * np.log(pseudo_perplexity(model, mutant))
    assert scores["pseudo_likelihood"][f"{TARGET[0]}1A"] == pytest.approx(expected, rel=1e-4)


def test_a_window_lies_around_the_mutation_inside_the_protein(weights: Path, tmp_path: Path):
    assert zero_shot.span(3, 10, 20) == (0, 10)
    assert [zero_shot.span(position, 100, 20) for position in (0, 9, 50, 95)] == [(0, 20), (0, 20), (40, 60), (80, 100)]
    gym(tmp_path, "a")
    model = load(weights)
    list(zero_shot.run(model, tmp_path, "masked_marginals", 9, (1, 1), tmp_path / "out"))
    ours = {
        line.split(",")[0]: float(line.split(",")[-1])
        for line in (tmp_path / "out" / "a.csv").read_text().splitlines()[1:]
    }
    part = TARGET[16:25]  # nine residues around the 21st
    logs = zero_shot.masked_log_probabilities(model, np.frombuffer(part.encode(), np.uint8), np.array([4]))[0]
    from proteinlm.vocabulary import IDS

    assert ours[f"{TARGET[20]}21W"] == pytest.approx(float(logs[IDS["W"]] - logs[IDS[TARGET[20]]]), rel=1e-5)


def test_parts_share_the_assays_and_a_run_goes_on(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    gym(tmp_path, "a", "b", "c")
    model = load(weights)
    first = list(zero_shot.run(model, tmp_path, "wildtype_marginals", 1022, (1, 2), tmp_path / "out"))
    assert [line.split(":")[0] for line in first[:2]] == ["[1/2] a", "[2/2] c"]
    assert first[2] == "1 assays of other parts are not scored yet, as b"
    second = list(zero_shot.run(model, tmp_path, "wildtype_marginals", 1022, (2, 2), tmp_path / "out"))
    assert second[-1] == "1 of 4 assays are not there: this is no score of ProteinGym"
    monkeypatch.setattr(zero_shot, "score_assay", lambda *_: pytest.fail("scored again"))
    again = list(zero_shot.run(model, tmp_path, "wildtype_marginals", 1022, (1, 1), tmp_path / "out"))
    assert again == second[1:]
    by_name = {line.split("|")[1].strip(): line for line in again if line.startswith("| ")}
    values = [float(by_name[name].split("|")[3]) for name in "abc"]
    average = by_name["**average over selection types**"].split("|")[3].split()[0]
    assert float(average) == pytest.approx(np.mean(values), abs=1e-3)


def test_the_averages_are_a_record_once_all_parts_are_there(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    gym(tmp_path, "a", "b")
    words = [f"root={tmp_path}", f"model.path={weights}", f"output={tmp_path / 'out'}", "method=wildtype_marginals"]
    ask("proteingym/substitutions", *words, "part=1/2")
    assert not records.load_all(tmp_path / "out")
    ask("proteingym/substitutions", *words, "part=2/2")
    (record,) = records.load_all(tmp_path / "out")
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| **average"))
    assert record.title == "proteingym/substitutions wildtype_marginals"
    average = record.of(weights.name)
    assert line.split("|")[3].strip() == f"{average.value:.3f} ({average.low:.3f} to {average.high:.3f})"
    assert average.low < average.value < average.high


def test_the_table_compares_the_averages_of_two_models(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    gym(tmp_path, "a", "b", "c")
    words = [f"root={tmp_path}", f"model.path={weights}", f"output={tmp_path / 'out'}", "method=wildtype_marginals"]
    for name in ("trained", "random"):
        ask("proteingym/substitutions", *words, f"name={name}", f"model.random={name == 'random'}")
    capsys.readouterr()
    assert table.main([str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    averages = {record.model: record.of(record.model).value for record in records.load_all(tmp_path / "out")}
    best, other = sorted(averages, key=averages.__getitem__, reverse=True)
    assert "proteingym/substitutions wildtype_marginals, differences of averages on the same proteins:" in printed
    line = next(line for line in printed.splitlines() if line.startswith(f"- {best} less {other}: "))
    value, low, high = (float(word) for word in re.findall(r"-?\d\.\d+", line))
    assert value == pytest.approx(averages[best] - averages[other], abs=1e-3)
    assert low < value < high
    row = next(line for line in printed.splitlines() if line.startswith(f"| {other} |"))
    assert ("**" in row) == (low <= 0 <= high)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("a.csv", "mutant,DMS_score\nA1C,1\n", r"a.csv: line 2, mutant: A1C, but the wild type has M there"),
        ("a.csv", "mutant,DMS_score\nM99C,1\n", r"a.csv: line 2, mutant: M99C is outside residues 1 to 33"),
        (
            "a.csv",
            f"mutant,mutated_sequence,DMS_score\nM1C,{TARGET},1\n",
            r"a.csv: line 2, mutant: mutated_sequence has M",
        ),
        ("a.csv", "mutant,DMS_score\nM1C,high\n", r"a.csv: line 2: DMS_score is 'high', no finite number"),
        ("z.csv", "mutant,DMS_score\nM1C,1\n", r"z.csv: no row of DMS_substitutions.csv has this DMS_filename"),
    ],
)
def test_an_assay_that_cannot_be_scored_is_named(weights: Path, tmp_path: Path, file: str, text: str, message: str):
    folder = gym(tmp_path, "a", "b")
    (folder / file).write_text(text)
    with pytest.raises(InputError, match=message):
        list(zero_shot.run(load(weights), tmp_path, "wildtype_marginals", 1022, (1, 1), tmp_path / "out"))
    assert not list((tmp_path / "out").glob("*.csv"))
