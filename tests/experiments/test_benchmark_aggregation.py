"""ProteinGym's summary follows from its scores by assay: by pandas on made-up scores, and as published on the real ones."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.benchmark import by_assay, published
from experiments.benchmark.aggregation import AVERAGE, difference, summarize
from proteinlm.data.formats.proteingym import DEPTHS, SELECTIONS, TAXA, Assay, read_assay, read_reference, read_scores
from proteinlm.errors import InputError
from tests.runs import ROOT

REAL = ROOT.parent / "shared" / "data" / "benchmarks" / "proteingym"
HEADER = (
    "DMS_id,DMS_filename,UniProt_ID,taxon,target_seq,coarse_selection_type,MSA_Neff_L_category,DMS_total_number_mutants"
)


def made_up(count: int) -> list[Assay]:
    rng = np.random.default_rng(5)
    return [
        Assay(f"a{n}", "", f"p{rng.integers(6)}", TAXA[rng.integers(4)], "MK", SELECTIONS[n % 5], DEPTHS[n % 3], 9)
        for n in range(count)
    ]


def test_averages_are_those_of_pandas():
    assays = made_up(40)
    values = np.random.default_rng(6).normal(size=(40, 3))
    values[4, 1] = np.nan
    frame = pd.DataFrame(values).assign(
        protein=[one.protein for one in assays],
        selection=[one.selection for one in assays],
        depth=[one.depth for one in assays],
        taxon=[one.taxon for one in assays],
    )
    ours = summarize(assays, values).averages
    for key, names in (("selection", SELECTIONS), ("depth", DEPTHS), ("taxon", TAXA)):
        means = frame.groupby(["protein", key])[[0, 1, 2]].mean().groupby(key).mean()
        for name in names:
            assert ours[name] == pytest.approx(means.loc[name].to_numpy())
        if key == "selection":
            assert ours[AVERAGE] == pytest.approx(means.mean().to_numpy())


def test_the_standard_error_is_the_limit_of_many_resamples():
    assays = made_up(60)
    values = np.random.default_rng(7).normal(size=(60, 2))
    frame = pd.DataFrame(values).assign(
        protein=[one.protein for one in assays], selection=[one.selection for one in assays]
    )
    groups = frame.groupby(["protein", "selection"]).mean()
    summary = summarize(assays, values)
    best = int(np.argmax(summary.averages[AVERAGE]))
    rng = np.random.default_rng(8)
    for frame, ours in (
        (groups.sub(groups[best], axis=0), summary.standard_error),
        (groups, summary.own_error),
    ):
        resampled = []
        for _, group in frame.groupby("selection"):
            rows = group.to_numpy()
            resampled.append(rows[rng.integers(len(rows), size=(20_000, len(rows)))].mean(axis=1))
        assert ours == pytest.approx(np.mean(resampled, axis=0).std(axis=0, ddof=1), rel=0.03)
    assert summary.standard_error[best] == 0


def test_a_difference_is_of_proteins_that_are_drawn_for_both_models():
    assays, rng = made_up(60), np.random.default_rng(10)
    shared = rng.normal(size=60)
    first, second = shared + 0.05 + 0.1 * rng.normal(size=60), shared + 0.1 * rng.normal(size=60)
    second[7] = np.nan
    found = difference(assays, first, second)
    keep = np.arange(60) != 7
    frame = pd.DataFrame({"first": first, "second": second})[keep].assign(
        protein=[one.protein for one in assays if one is not assays[7]],
        selection=[one.selection for one in assays if one is not assays[7]],
    )
    groups = frame.groupby(["protein", "selection"]).mean()
    assert found.value == pytest.approx(float((groups["first"] - groups["second"]).groupby("selection").mean().mean()))
    resampled = []
    for _, group in groups.groupby("selection"):
        rows = group.to_numpy()
        drawn = rng.integers(len(rows), size=(20_000, len(rows)))
        resampled.append(rows[drawn].mean(axis=1))
    averages = np.mean(resampled, axis=0)  # (resamples, 2)
    assert found.error == pytest.approx((averages[:, 0] - averages[:, 1]).std(), rel=0.03)
    assert found.error < 0.5 * averages[:, 0].std()  # what the models share is gone
    back = difference(assays, second, first)
    assert (back.value, back.error) == pytest.approx((-found.value, found.error))
    assert np.isnan(difference(assays[:1], first[:1], second[:1]).error)


def test_two_models_are_compared_on_the_same_assays_alone(tmp_path: Path):
    assays, rng = made_up(60), np.random.default_rng(11)
    values = rng.normal(size=60)
    models = {"worse": values - 0.3, "best": values, "close": values + 0.3 * rng.normal(size=60) - 0.01}
    for name, own in models.items():
        (tmp_path / name).mkdir()
        by_assay.save(tmp_path / name, list(zip(assays, own.tolist(), strict=True)))
    loaded = {name: by_assay.load(tmp_path / name) for name in models}
    found = by_assay.differences(loaded)
    best = max(models, key=lambda name: summarize(assays, models[name][:, None]).averages[AVERAGE][0])
    assert found.keys() == models.keys() - {best}
    assert all(each.value > 0 for each in found.values())
    assert found["worse"].value == pytest.approx(difference(assays, models[best], models["worse"]).value)
    assert not by_assay.is_tie(found["worse"])
    (other,) = found.keys() - {"worse"}
    assert by_assay.is_tie(found[other])
    loaded["worse"] = (loaded["worse"] or [])[1:]
    assert by_assay.differences(loaded) == {}
    assert by_assay.differences(loaded | {"worse": None}) == {}


def test_one_protein_of_a_selection_type_says_nothing_of_an_error():
    assays = [Assay(f"a{n}", "", f"p{n}", "Human", "MK", SELECTIONS[n // 2], "Low", 9) for n in range(5)]
    values = np.random.default_rng(9).normal(size=(5, 2))
    assert np.isnan(summarize(assays, values).own_error).all()
    assert not np.isnan(summarize(assays[:4], values[:4]).own_error).any()
    values[0, 1] = np.nan
    assert np.isnan(summarize(assays[:4], values[:4]).own_error).tolist() == [False, True]


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ProteinGym's published tables in ../shared/data")
def test_the_published_summary_is_derived_to_the_printed_digits():
    comparisons = published.compare(REAL)
    means = [one for one in comparisons if not one.column.startswith("Bootstrap")]
    assert len(means) == 97 * 13
    assert all(one.agrees for one in means)
    errors = [one for one in comparisons if one.column.startswith("Bootstrap")]
    assert len(errors) == 97
    assert max(abs(one.derived - one.published) for one in errors) < 0.0006  # half of the last digit, and their chance
    assert next(iter(published.report(comparisons))).startswith("averages: 1,261 of 1,261 agree")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,a.csv,P,Bird,MK,Activity,Low,3", "line 2: taxon is 'Bird'"),
        ("a,a.csv,P,Human,MK,Luck,Low,3", "line 2: coarse_selection_type is 'Luck'"),
        ("a,a.csv,P,Human,MK,Activity,Deep,3", "line 2: MSA_Neff_L_category is 'Deep'"),
        ("a,a.csv,P,Human,MK,Activity,low,x", "line 2: DMS_total_number_mutants is 'x'"),
        ("a,a.csv,P,Human,MK,Activity,low,3\na,a.csv,P,Human,MK,Activity,low,3", "line 3: DMS_id 'a' came before"),
    ],
)
def test_a_reference_row_that_cannot_be_used_is_named(tmp_path: Path, row, message):
    (tmp_path / "reference.csv").write_text(f"{HEADER}\n{row}\n")
    with pytest.raises(InputError, match=message):
        read_reference(tmp_path / "reference.csv")


def test_scores_that_disagree_with_the_reference_are_refused(tmp_path: Path):
    (tmp_path / "reference.csv").write_text(f"{HEADER}\na,a.csv,P,Human,MK,Activity,low,3\n")
    reference = read_reference(tmp_path / "reference.csv")
    assert reference["a"].depth == "Low"
    scores = tmp_path / "scores.csv"
    header = "DMS ID,ours,Number of Mutants,Selection Type,UniProt ID,MSA_Neff_L_category,Taxon"
    scores.write_text(f"{header}\na,0.5,3,Activity,P,Low,Human\n")
    assert read_scores(scores, reference).values.tolist() == [[0.5]]
    scores.write_text(f"{header}\nb,0.5,3,Activity,P,Low,Human\n")
    with pytest.raises(InputError, match="line 2: DMS ID 'b' has no row in the reference"):
        read_scores(scores, reference)
    scores.write_text(f"{header}\na,0.5,3,Binding,P,Low,Human\n")
    with pytest.raises(
        InputError, match="line 2: Selection Type is 'Binding', where the reference table has 'Activity'"
    ):
        read_scores(scores, reference)
    scores.write_text(f"{header}\na,half,3,Activity,P,Low,Human\n")
    with pytest.raises(InputError, match="line 2: ours is 'half', no finite number"):
        read_scores(scores, reference)


def test_an_assay_is_read_with_its_cutoff(tmp_path: Path):
    file = tmp_path / "a.csv"
    file.write_text("mutant,mutated_sequence,DMS_score,DMS_score_bin\nM1A:K2R,AR,0.25,1\nK2A,MA,-3,0\n")
    variants = read_assay(file)
    assert variants.mutant == ["M1A:K2R", "K2A"]
    assert variants.measured.tolist() == [0.25, -3]
    assert variants.is_fit is not None
    assert variants.is_fit.tolist() == [True, False]
    file.write_text("mutant,DMS_score,DMS_score_bin\nM1A,0.25,2\n")
    with pytest.raises(InputError, match="line 2: DMS_score_bin is '2', neither 0 nor 1"):
        read_assay(file)
    file.write_text("mutant,DMS_score\nM1A,\n")
    with pytest.raises(InputError, match="line 2: DMS_score is empty"):
        read_assay(file)
