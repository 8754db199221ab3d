"""The released checkpoint arrives whole and ready to be imported, or not at all."""

import io
import zipfile
from pathlib import Path

import pytest

from proteinlm.data.fetch.proteinlm import fetch_released
from proteinlm.errors import InputError
from proteinlm.interop import megatron
from tests.data.servers import QUICK, Server
from tests.interop import megatron_samples as samples


def get(server: Server, to: Path) -> bool:
    return fetch_released(to, f"http://127.0.0.1:{server.server_port}/f/?dl=1", QUICK)


@pytest.mark.parametrize("faults", [[], ["cut"], ["503", "redirect", "cut"]], ids=" ".join)
def test_it_can_be_imported(tmp_path: Path, server: Server, faults: list[str]):
    args = samples.arguments(32, 1, 4, vocab=128, positions=64, shards=1)
    source = samples.write(tmp_path / "source", args, samples.model(args))
    server.content, server.faults = (source / "release/mp_rank_00/model_optim_rng.pt").read_bytes(), list(faults)
    assert get(server, tmp_path / "data") is True
    assert get(server, tmp_path / "data") is False
    assert megatron.import_checkpoint(tmp_path / "data/proteinlm-200m", tmp_path / "ours").iteration == 70000
    left = sorted(path.name for path in (tmp_path / "data/proteinlm-200m").iterdir())
    assert left == [".lock", "model_optim_rng.pt"]


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, server: Server):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("release/notes.txt", "")
    for content, faults, message in (
        (b"<html>Sign in</html>", [], "not a checkpoint, it begins with b'<html>"),
        (packed.getvalue(), [], "an archive of release/notes.txt, not a checkpoint"),
        (b"", ["404"], "the server answers 404"),
    ):
        server.content, server.faults = content, list(faults)
        with pytest.raises(InputError) as refusal:
            get(server, tmp_path / "data")
        text = str(refusal.value)
        assert message in text
        assert f"put the checkpoint at {tmp_path / 'data/proteinlm-200m/model_optim_rng.pt'}" in text
        assert "\n" not in text
        assert not [*(tmp_path / "data/proteinlm-200m").iterdir()]
