"""Compiled functions are the same functions, and where they cannot be compiled, one line says so and PyTorch computes."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from proteinlm.models import attention_compiled
from proteinlm.models.gelu import PIECE, gelu
from proteinlm.models.heads import tanh_pairs
from proteinlm.models.kernels import compiler as kernels


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A cache of this test's own, in which nothing is compiled yet."""
    monkeypatch.setenv("PROTEINLM_CACHE", str(tmp_path / "cache"))
    kernels._load_once.cache_clear()
    yield tmp_path / "cache"
    kernels._load_once.cache_clear()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", [1, 15, 1000, PIECE + 5])
def test_gelu_is_pytorchs(size: int, threads: int):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    x = (3 * torch.randn(size)).requires_grad_()
    exact, upstream = x.detach().double().requires_grad_(), torch.randn(size)
    gelu(x, "tanh").backward(upstream)
    F.gelu(exact, approximate="tanh").backward(upstream.double())
    torch.testing.assert_close(gelu(x, "tanh"), F.gelu(exact, approximate="tanh").float(), atol=1e-6, rtol=1e-6)
    assert x.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(x.grad, exact.grad.float(), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 15, 1000, PIECE + 5])
def test_gelu_in_bfloat16_is_as_near_to_the_exact_one_as_pytorchs(size: int):
    torch.manual_seed(0)
    exact = (3 * torch.randn(size)).bfloat16().double().requires_grad_()
    upstream = torch.randn(size).bfloat16()
    expected = F.gelu(exact, approximate="tanh")
    errors = []
    (of_exact,) = torch.autograd.grad(expected, exact, upstream.double())
    for function in (gelu, lambda x, approximate: F.gelu(x, approximate=approximate)):
        x = exact.detach().bfloat16().requires_grad_()
        y = function(x, "tanh")
        (gradient,) = torch.autograd.grad(y, x, upstream)
        assert y.dtype == gradient.dtype == torch.bfloat16
        errors.append([(y - expected).abs().max().item(), (gradient - of_exact).abs().max().item()])
    for ours, theirs in zip(*errors, strict=True):
        assert ours <= 1.01 * theirs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gelu_far_from_zero(dtype: torch.dtype):
    x = torch.tensor([-1e10, -200.0, -20.0, 20.0, 200.0, 1e10, float("nan")], dtype=dtype, requires_grad=True)
    y = gelu(x, "tanh")
    y.sum().backward()
    assert x.grad is not None
    expected = torch.tensor([0, 0, 0, 20, 200, 1e10, float("nan")], dtype=dtype)
    torch.testing.assert_close(y, expected, equal_nan=True)
    torch.testing.assert_close(x.grad, torch.tensor([0, 0, 0, 1, 1, 1, float("nan")], dtype=dtype), equal_nan=True)


@pytest.mark.parametrize(("length", "hidden"), [(1, 5), (70, 48), (130, 33)])
def test_pair_logits_are_those_of_the_whole_hidden_layer(length: int, hidden: int):
    torch.manual_seed(0)
    shapes = (length, hidden), (length, hidden), (hidden,), ()
    given = [torch.randn(shape, requires_grad=True) for shape in shapes]
    exact = [x.detach().double().requires_grad_() for x in given]
    upstream = torch.randn(length, length)
    first, second, weight, bias = exact
    expected = (first[:, None] + second).tanh() @ weight + bias
    expected.backward(upstream.double())
    gradients = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found = tanh_pairs.logits(*given)
        gradients.append(torch.autograd.grad(found, given, upstream))
        torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-5)
    for ours, others, theirs in zip(*gradients, exact, strict=True):
        assert torch.equal(ours, others)
        assert theirs.grad is not None
        assert (ours - theirs.grad).norm() < 1e-6 * theirs.grad.norm()


def test_a_compiled_file_is_made_once_where_others_cannot_write(fresh: Path):
    assert kernels.load_kernels()
    (file,) = fresh.rglob("*.so")
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    made = file.stat().st_mtime_ns
    kernels._load_once.cache_clear()
    assert kernels.load_kernels()
    assert file.stat().st_mtime_ns == made
    assert [*fresh.rglob("*.*")] == [file]


def test_code_that_others_could_have_written_is_not_run(fresh: Path):
    directory = fresh / f"kernels-{os.getuid()}"
    directory.mkdir(parents=True)
    directory.chmod(0o777)
    assert kernels.load_kernels()
    assert not [*fresh.rglob("*.so")]  # but in a directory of this process


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ("no-such-compiler", "there is no C compiler"),
        ("sh -c 'echo broken >&2; exit 1'", "sh failed: broken"),
        ("true", ".so"),
    ],
)
def test_without_a_compiler_pytorch_computes_and_one_line_says_so(
    compiler: str, reason: str, fresh: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("CC", compiler)
    joint = torch.randn(5, 2, 3, 8)
    assert not attention_compiled.longest(joint)
    assert not attention_compiled.longest(joint)
    x = torch.randn(100)
    assert torch.equal(gelu(x, "tanh"), F.gelu(x, approximate="tanh"))
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: models train up to three times slower on this CPU: ")
    assert reason in line
    assert not [*fresh.rglob("*.so")]


def test_a_compiler_that_does_not_end_is_given_up(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("CC", "sh -c 'exec sleep 60'")
    monkeypatch.setattr(kernels, "PATIENCE", 1.0)
    assert kernels.load_kernels() is None
    (line,) = capfd.readouterr().err.splitlines()
    assert line == "warning: models train up to three times slower on this CPU: sh took longer than 1 s"


def test_the_switch_leaves_everything_to_pytorch(fresh: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(kernels.SWITCH, "0")
    assert kernels.load_kernels() is None
    assert not fresh.exists()


def test_any_number_of_processes_may_compile_at_once(fresh: Path):
    command = "from proteinlm.models.kernels.compiler import load_kernels; assert load_kernels()"
    started = [subprocess.Popen([sys.executable, "-c", command]) for _ in range(2)]
    assert [process.wait() for process in started] == [0, 0]
    assert len([*fresh.rglob("*.*")]) == 1
