"""``proteinlm import`` and ``export`` report what they did, and end bad input with one line and code 2."""

import os
import subprocess
import sys
from pathlib import Path

from tests.inference.commands import run
from tests.interop import megatron_samples as samples


def test_in_and_out(tmp_path: Path):
    args = samples.arguments(32, 1, 4, vocab=256, positions=2176, shards=2)
    samples.write(
        tmp_path / "megatron", args, samples.model(args) | {"binary_head": {"weight": samples.torch.zeros(2)}}
    )
    code, output, _ = run("import", "megatron", tmp_path / "megatron", tmp_path / "ours")
    assert code == 0
    assert output.splitlines() == [
        "hidden-32-layer-1-head-4 (not in Table 7): 2 shards, iteration 70,000",
        "hidden size 32, 1 layers, 4 heads of 8, 2176 positions, vocabulary 256: "
        "91,968 parameters with the language-model head",
        "unused: binary_head.weight (2,)",
        f"written to {tmp_path / 'ours'}",
    ]
    code, _, errors = run("export", tmp_path / "ours", tmp_path / "hf")
    assert (code, errors.count("\n")) == (2, 1)
    assert errors.startswith("error: ")
    code, output, _ = run("export", tmp_path / "ours", tmp_path / "hf", "--approximate")
    assert code == 0
    assert "approximate: logits of random proteins differ by up to" in output
    assert run("import", "hf", tmp_path / "hf", tmp_path / "back")[0] == 0
    code, _, errors = run("import", "hf", tmp_path, tmp_path / "again")
    assert (code, errors) == (2, f"error: {tmp_path}: no config.json in it\n")


def test_help_imports_no_torch():
    code = "import sys; from proteinlm import cli; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "lightning", "scipy", "pandas"} & set(result.stdout.split())
