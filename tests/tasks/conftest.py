import pytest

from proteinlm.data import synthetic
from tests.tasks import toys


@pytest.fixture(autouse=True)
def toy_proteins(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(synthetic, "labelled", toys.labelled, raising=False)
