"""How much protease a small designed protein withstands (Rocklin 2017): paper section 3.3.2."""

from typing import ClassVar, final

from proteinlm.tasks.regression import ScalarRegression


@final
class Stability(ScalarRegression):
    """Concentration beyond which it unfolds, on a logarithmic scale. Tested on single mutants of the best designs."""

    dataset = "stability"
    splits: ClassVar = {"train": 53614, "valid": 2512, "test": 12851}
    field = "stability_score"
