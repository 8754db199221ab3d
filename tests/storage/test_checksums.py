"""A checkpoint that was cut, or in which a bit has changed, is never started from: the one before it is, or nothing."""

import shutil
from pathlib import Path

import pytest
import torch

from proteinlm import checkpoint
from proteinlm.errors import InputError
from proteinlm.storage.checksums import SUMS, check_seal, check_sums, checksum_list, seal
from proteinlm.training import pretraining
from tests.runs import SMALL, composed, equal, home, in_group, weights

DIVIDED = (*SMALL, "train.tokens=12288", "strategy=fsdp", "strategy.devices=2")


def flip(file: Path, place: float) -> None:
    content = bytearray(file.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    file.write_bytes(content)


def cut(file: Path, place: float) -> None:
    file.write_bytes(file.read_bytes()[: int(place * file.stat().st_size)])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed")
    pretraining.run(composed(*SMALL, f"output={output}"))
    return output


@pytest.fixture
def unfinished(undisturbed: Path, tmp_path: Path) -> Path:
    """A run with checkpoints of steps 11 and 12, and no result."""
    output = tmp_path / "run"
    shutil.copytree(undisturbed, output)
    (home(output) / "result.json").unlink()
    shutil.rmtree(home(output) / "model")
    return output


@pytest.mark.parametrize("damage", [flip, cut])
def test_every_flipped_bit_and_every_cut_shows(tmp_path: Path, damage):
    file = tmp_path / "file"
    for place in (0.0, 0.3, 0.9, 0.98, 0.995, 1.0 if damage is flip else 0.999):
        with file.open("wb") as opened, seal(opened) as content:
            content.write(bytes(range(256)) * 20)
        check_seal(file)
        damage(file, place)
        with pytest.raises(InputError, match=f"^{file}: damaged: "):
            check_seal(file)


def test_torch_reads_a_sealed_file_in_every_way(tmp_path: Path):
    with (tmp_path / "file").open("wb") as opened, seal(opened) as content:
        torch.save({"weights": torch.arange(1000)}, content)
    for mmap in (False, True):
        loaded = torch.load(tmp_path / "file", mmap=mmap, weights_only=True)
        assert torch.equal(loaded["weights"], torch.arange(1000))


@pytest.mark.parametrize("damage", [flip, cut])
def test_the_one_before_is_taken_and_said(
    unfinished: Path, undisturbed: Path, damage, capsys: pytest.CaptureFixture[str]
):
    newest = checkpoint.last_good(home(unfinished) / "checkpoints", reports=False)
    assert newest is not None
    damage(newest, 0.5)
    (newest.parent / ".step-000000009.ckpt.partial").write_bytes(b"half of one")
    pretraining.run(composed(*SMALL, f"output={unfinished}"))
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if "damaged" in line]
    assert line.startswith(f"{newest}: damaged: ")
    assert line.endswith("; going back to step 11")
    assert "going on after step 11" in said
    assert equal(weights(unfinished), weights(undisturbed))
    kept = sorted(file.name for file in (home(unfinished) / "checkpoints").iterdir())
    assert kept == ["step-000000011.ckpt", "step-000000012.ckpt"]


def test_if_all_are_damaged_nothing_is_started_or_removed(unfinished: Path):
    files = sorted((home(unfinished) / "checkpoints").iterdir())
    for file in files:
        flip(file, 0.5)
    for _ in range(2):
        with pytest.raises(InputError, match=r"step-000000012.ckpt: damaged: .*no other checkpoint is left"):
            pretraining.run(composed(*SMALL, f"output={unfinished}"))
        assert sorted((home(unfinished) / "checkpoints").iterdir()) == files


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("divided")
    in_group(2, lambda: pretraining.run(composed(*DIVIDED, f"output={output}")))
    return output


@pytest.mark.parametrize("part", ["__0_0.distcp", "__1_0.distcp", ".metadata", "rest.pt", "1.SHA256SUMS"])
def test_any_part_of_a_divided_checkpoint(divided: Path, tmp_path: Path, part: str):
    newest = checkpoint.last_good(home(divided) / "checkpoints", reports=False)
    assert newest is not None
    checkpoint.verify(newest)
    for damage in (flip, cut):
        broken = tmp_path / damage.__name__
        shutil.copytree(newest, broken)
        damage(broken / part, 0.5)
        with pytest.raises(InputError, match=": damaged: "):
            checkpoint.verify(broken)


def test_no_bit_of_a_list_of_sums_may_change(tmp_path: Path):
    """Nor its end be lost: a list that says less would leave a file unwatched."""
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "b").write_bytes(b"other")
    sums = tmp_path / SUMS
    sums.write_text(checksum_list([tmp_path / "a", tmp_path / "b"]))
    good = sums.read_bytes()
    assert check_sums([sums], {}) == {"a", "b"}
    for bit in range(8 * len(good)):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        sums.write_bytes(flipped)
        with pytest.raises(InputError, match=r": damaged: |: a part of the checkpoint is missing"):
            check_sums([sums], {})
    for end in range(len(good)):
        sums.write_bytes(good[:end])
        try:
            left = check_sums([sums], {})
        except InputError:
            continue
        assert left < {"a", "b"}, "which whoever wants both refuses"


def test_a_part_without_a_checksum_is_refused(divided: Path, tmp_path: Path):
    newest = checkpoint.last_good(home(divided) / "checkpoints", reports=False)
    assert newest is not None
    for lost in (".metadata", "rest.pt", "__0_0.distcp"):
        shutil.copytree(newest, tmp_path / lost)
        sums = tmp_path / lost / f"0.{SUMS}"
        kept = [line for line in sums.read_text().splitlines(keepends=True) if not line.endswith(f"  {lost}\n")]
        sums.write_text("".join(kept))
        with pytest.raises(InputError, match=f"{lost}: damaged: it has no checksum"):
            checkpoint.verify(tmp_path / lost)


def test_all_processes_go_back_to_the_same_one(divided: Path, tmp_path: Path):
    output = tmp_path / "run"
    shutil.copytree(divided, output)
    (home(output) / "result.json").unlink()
    newest = checkpoint.last_good(home(output) / "checkpoints", reports=False)
    assert newest is not None
    flip(newest / "__1_0.distcp", 0.5)
    in_group(2, lambda: pretraining.run(composed(*DIVIDED, f"output={output}")))
    assert equal(weights(output), weights(divided))


def test_damaged_weights_are_not_used(undisturbed: Path, tmp_path: Path):
    model = tmp_path / "model"
    shutil.copytree(home(undisturbed) / "model", model)
    checkpoint.load_weights(model)
    for name in ("model.safetensors", "config.json"):
        good = (model / name).read_bytes()
        flip(model / name, 0.9)
        with pytest.raises(InputError, match=rf"{name}: damaged: its checksum is another"):
            checkpoint.load_weights(model)
        (model / name).write_bytes(good)
    checkpoint.load_weights(model)


def test_what_a_killed_run_left_of_another_kind_is_no_obstacle(undisturbed: Path, tmp_path: Path):
    for strategy, left in (("single", Path.mkdir), ("fsdp", Path.touch)):
        output = tmp_path / strategy
        checkpoints = home(output) / "checkpoints"
        checkpoints.mkdir(parents=True)
        left(checkpoints / ".step-000000003.ckpt.partial")
        run = composed(*SMALL, f"strategy={strategy}", "strategy.devices=1", f"output={output}")
        if strategy == "single":
            pretraining.run(run)
            assert equal(weights(output), weights(undisturbed))
        else:
            in_group(1, lambda run=run: pretraining.run(run))
