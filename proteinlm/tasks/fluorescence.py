"""How brightly a mutant of the green fluorescent protein glows (Sarkisyan 2016): paper section 3.3.1."""

from typing import ClassVar, final

from proteinlm.tasks.regression import ScalarRegression


@final
class Fluorescence(ScalarRegression):
    """Logarithm of the intensity. Trained on up to three mutations, tested on four and more."""

    dataset = "fluorescence"
    splits: ClassVar = {"train": 21446, "valid": 5362, "test": 27217}
    field = "log_fluorescence"
