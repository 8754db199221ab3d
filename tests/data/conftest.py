import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.servers import Server


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def root(tmp_path) -> Path:
    root = tmp_path / "data"
    root.mkdir()
    return root
