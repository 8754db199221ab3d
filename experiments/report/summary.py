"""What the page says first: in three sentences, what was done and what came of it."""

from collections import Counter

from experiments.figures import style
from experiments.report import provenance
from experiments.table7 import claims
from experiments.table7.claims import Finding
from experiments.table7.published import COLUMNS, TABLE7
from experiments.table7.rows import PRETRAIN, Row


def of(rows: list[Row], findings: list[Finding]) -> list[str]:
    ten = [row for row in rows if row.name in TABLE7]
    done = [row for row in ten if not row.missing]
    pretraining = next((row.results[PRETRAIN] for row in rows if PRETRAIN in row.results), None)
    said = "All of the paper's ten shapes" if len(done) == len(TABLE7) else f"{len(done)} of the paper's ten shapes"
    said += ", made smaller," if pretraining and max(pretraining.scale.values(), default=1) > 1 else ""
    said += f" were pretrained on {_tokens(pretraining.tokens)} tokens each" if pretraining else " were trained"
    sentences = [f"{said} of {provenance.data(rows)} and fine-tuned on the five downstream tasks."]
    ties = Counter({row.name: sum(cell.tie for cell in row.cells.values()) for row in ten})
    if ties and max(ties.values()):
        best, number = max(ties.items(), key=lambda each: each[1])
        sentences.append(
            f"{style.short(best)} (hidden size × layers · heads) is the best of the ten, or not distinguishable from "
            f"it, in {number} of {len(COLUMNS)} columns."
        )
    if findings:
        verdicts = Counter(finding.verdict for finding in findings)
        counts = [verdicts[each] or "none" for each in (claims.SUPPORTED, claims.CONTRADICTED, claims.UNDECIDED)]
        sentences.append(
            "Of {} claims of the paper the table supports {}, contradicts {} and leaves {} open.".format(
                len(findings), *counts
            )
        )
    return sentences


def _tokens(number: int) -> str:
    return f"{number / 1e6:,.2f} M" if number < 1e9 else f"{number / 1e9:,.1f} G"
