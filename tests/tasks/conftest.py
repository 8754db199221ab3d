from collections.abc import Iterator

import pytest

from tests.tasks import toys


@pytest.fixture(scope="module", autouse=True)
def toy_proteins() -> Iterator[None]:
    with toys.in_place():
        yield
