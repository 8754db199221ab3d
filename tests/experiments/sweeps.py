"""A finished sweep that nobody has run: records of made-up rows, with all that figures and the page read."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments.table7.published import COLUMNS, TABLE7
from experiments.table7.rows import PRETRAIN, SCRATCH, STAGES, shape_of
from proteinlm.records import contact_map, predictions
from proteinlm.records.bootstrap import Predictions, Sample, Scores, bootstrap
from proteinlm.records.contact_map import ContactMap
from proteinlm.records.results import CONFIG, STAMP, Result, Score

CONTROL = f"{SCRATCH}hidden-1024-layer-12-head-16"
PROTEINS, LENGTH, STEPS = 20, 40, 60


def made_up(directory: Path, seed: int = 0) -> Path:
    """Write the ten rows and a control; larger rows are a little better."""
    generator = np.random.default_rng(seed)
    for place, name in enumerate((*TABLE7, CONTROL)):
        for stage in STAGES[1:] if name == CONTROL else STAGES:
            home = directory / name / stage
            home.mkdir(parents=True)
            result = result_of(name, stage)
            scores = _pretrained(home, result, place) if stage == PRETRAIN else _tuned(home, stage, place, generator)
            replace(result, scores=scores).save(home)
            (home / CONFIG).write_text("data:\n  name: synthetic\n")
            (home / STAMP).write_text(json.dumps([{"command": ["made up"]}]))
    return directory


def result_of(name: str, stage: str) -> Result:
    full = shape_of(name.removeprefix(SCRATCH))
    return Result(
        row=name,
        stage=stage,
        scores=[],
        hidden_size=full.hidden_size // 16,
        num_layers=full.num_layers // 4,
        num_heads=full.num_heads // 2,
        scale={"hidden_size": 16, "num_layers": 4, "num_heads": 2},
        parameters=full.parameters // 500,
        seed=0,
        steps=STEPS,
        tokens=123_456,
        residues=120_000,
        epochs=0.5,
        cropped=0,
        flops=1e9 * full.num_layers,
        seconds=100.0,
        precision="fp32",
        processes=1,
        threads=1,
        hardware="none, 1 core",
        versions={"torch": "2.13.0", "numpy": "2.4.6"},
        commit="0123456789ab",
        source="ba9876543210",
        config="c",
        data="d",
    )


def _pretrained(home: Path, result: Result, place: int) -> list[Score]:
    lines = ["step,metric,value"]
    for step in range(1, STEPS + 1):
        told = {
            "train/loss": 2.2 + 2 / step - 0.01 * place,
            "progress/tokens": 2057.6 * step,
            "progress/hours": step / 2160,
        }
        told |= {"valid/loss": 2.3 - 0.01 * place} if step % 20 == 0 else {}
        lines += [f"{step},{name},{value}" for name, value in told.items()]
    (home / "metrics.csv").write_text("\n".join(lines) + "\n")
    plan = {
        "tokens_per_second": {"planned": [1000.0, 2000.0], "measured": result.tokens / result.seconds},
        "memory": {"planned": {"weights": 4.0 * result.parameters, "activations": 1e8}, "measured": 1.5e8},
    }
    (home / "plan.json").write_text(json.dumps(plan))
    perplexity = 10.0 - place / 10
    losses = Scores(np.arange(PROTEINS), np.full(PROTEINS, np.log(perplexity)), np.ones(PROTEINS))
    predictions.save(home, {(split, "perplexity"): losses for split in ("valid", "holdout")})
    return [
        Score("masked_language_model", split, "perplexity", perplexity, perplexity - 0.2, perplexity + 0.2, 50)
        for split in ("valid", "holdout")
    ]


def _tuned(home: Path, stage: str, place: int, generator: np.random.Generator) -> list[Score]:
    samples: dict[tuple[str, str], Sample] = {}
    records = np.arange(PROTEINS)
    for column in (column for column in COLUMNS if column.stage == stage):
        target = generator.normal(size=PROTEINS)
        near = target + generator.normal(size=PROTEINS) * (1.5 - place / 10)
        right = generator.random(PROTEINS) * (0.5 + place / 25)
        spearman = column.metric == "spearman"
        samples[column.split, column.metric] = (
            Predictions(records, near[None], target) if spearman else Scores(records, right[None], np.ones(PROTEINS))
        )
    predictions.save(home, samples)
    if stage == "contact":
        noise = generator.normal(size=(LENGTH, LENGTH))
        position = np.arange(LENGTH)
        touching = np.abs(position[:, None] + position - LENGTH) < 2
        logits = (noise + noise.T + 2 * touching - 2).astype(np.float32)
        contact_map.save(home, ContactMap("made up", 7, 0, logits, touching, position > 1))
    return [
        Score(stage, split, metric, sample.estimate(), *bootstrap(sample), sample.n)
        for (split, metric), sample in samples.items()
    ]
