"""Compiles the C files beside this one, once for each machine, and opens what comes of them.

Whatever a function here does, PyTorch can do, only slower: without a C compiler nothing is missing but speed.
"""

import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import torch

from proteinlm.storage.cache import default_cache

SOURCES = (
    *("attention.c", "feed_forward.c", "fused_bf16.c", "fused_fp32.c", "gelu.c", "norm_linear.c"),
    *("pairs.c", "rows.c"),
)
HEADERS = (
    *("bf16.h", "fused_attention.h", "fused_feed_forward.h", "fused_linear.h", "fused_weights.h", "gelu.h", "lanes.h"),
    *("narrow.h", "norm.h", "numbers_bf16.h", "numbers_fp32.h", "products.h", "strips.h", "vectors.h"),
)
FLAGS = ("-O3", "-std=gnu11", "-shared", "-fPIC", "-fno-math-errno", "-ffp-contract=fast", "-w")
INSTRUCTIONS = {"AVX512": ("-march=x86-64-v4",), "AVX2": ("-march=x86-64-v3",)}
"""By the instructions that PyTorch has chosen; other processors have theirs by default."""
BF16_PRODUCTS = "-mavx512bf16"
"""For the sums of two products of numbers in bfloat16 that some processors with AVX-512 compute at once."""
SWITCH = "PROTEINLM_KERNELS"
"""Environment variable: ``0`` leaves everything to PyTorch."""
PATIENCE = 120.0
"""Seconds that a compiler may take."""

_pointer, _number, _float = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
SIGNATURES: dict[str, tuple[type | None, list[type]]] = {
    "attention_forward_space": (_number, [_number] * 2),
    "attention_backward_space": (_number, [_number] * 2),
    "attention_forward": (None, [_pointer] * 8 + [_number] * 8 + [_float, _pointer]),
    "attention_backward": (None, [_pointer] * 11 + [_number] * 8 + [_float, _pointer]),
    "feed_forward_space": (_number, [_number] * 2),
    "feed_forward_forward": (None, [_pointer] * 10 + [_number] * 4 + [_float, _pointer]),
    "feed_forward_backward": (None, [_pointer] * 10 + [_number] * 5 + [_pointer]),
    "gelu_forward": (None, [_pointer] * 2 + [_number]),
    "gelu_backward": (None, [_pointer] * 3 + [_number]),
    "gelu_forward_bf16": (None, [_pointer] * 2 + [_number]),
    "gelu_backward_bf16": (None, [_pointer] * 3 + [_number]),
    "norm_linear_space": (_number, [_number] * 2),
    "norm_linear_forward": (None, [_pointer] * 7 + [_number] * 4 + [_float, _pointer]),
    "norm_linear_backward": (None, [_pointer] * 8 + [_number] * 5 + [_pointer]),
    "pairs_forward": (None, [_pointer] * 3 + [_float, _pointer] + [_number] * 5),
    "pairs_backward": (None, [_pointer] * 7 + [_number] * 4),
    "rows_sum": (None, [_pointer] * 4 + [_number] * 4),
}
"""What each function returns and takes."""
FUSED_SIGNATURES: dict[str, tuple[type | None, list[type]]] = {
    "attention_forward_space": (_number, [_number] * 2),
    "attention_backward_space": (_number, [_number] * 2),
    "attention_forward": (None, [_pointer] * 8 + [_number] * 7 + [_float, _pointer]),
    "attention_backward": (None, [_pointer] * 11 + [_number] * 7 + [_float, _pointer]),
    "columns_of_product": (None, [_pointer] * 3 + [_number] * 5 + [_pointer]),
    "feed_forward_space": (_number, [_number] * 2),
    "feed_forward_forward": (None, [_pointer] * 10 + [_number] * 7 + [_float, _pointer]),
    "feed_forward_backward": (None, [_pointer] * 14 + [_number] * 8 + [_pointer]),
    "linear_space": (_number, [_number] * 2),
    "linear_forward": (None, [_pointer] * 5 + [_number] * 5 + [_pointer]),
    "linear_backward": (None, [_pointer] * 4 + [_number] * 6),
    "norm_linear_forward": (None, [_pointer] * 7 + [_number] * 5 + [_float, _pointer]),
    "norm_linear_backward": (None, [_pointer] * 11 + [_number] * 6 + [_pointer]),
    "weights_pack": (None, [_pointer] * 2 + [_number] * 3),
    "weights_pack_back": (None, [_pointer] * 2 + [_number] * 4),
    "weights_space": (_number, [_number] * 2),
    "weights_gradient": (None, [_pointer] * 4 + [_number] * 10 + [_pointer]),
}
"""The same of the functions of ``fused_fp32.c`` and ``fused_bf16.c``, named so with ``_fp32`` and ``_bf16``. There are the
first only if `has_avx512`, the others only if `has_bf16_products`.
"""

_loading = threading.Lock()  # a backward pass has a thread of its own


def load_kernels() -> ctypes.CDLL | None:
    """The compiled functions; None, and one line on stderr, where they cannot be compiled."""
    with _loading:
        return _load_once()


@functools.cache
def _load_once() -> ctypes.CDLL | None:
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        opened = ctypes.CDLL(str(_compiled()))
        signatures = dict(SIGNATURES)
        for suffix, there in (("fp32", has_avx512()), ("bf16", has_bf16_products())):
            if there:
                signatures |= {f"{name}_{suffix}": signature for name, signature in FUSED_SIGNATURES.items()}
        for name, (result, arguments) in signatures.items():
            function = getattr(opened, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, RuntimeError, AttributeError, subprocess.SubprocessError) as error:
        reason = " ".join(str(error).split())[:200]
        print(f"warning: models train up to three times slower on this CPU: {reason}", file=sys.stderr)
        return None
    return opened


def _compiled() -> Path:
    """The compiled file, in the cache if it is this user's alone, else in a directory that ends with the process."""
    compiler = shlex.split(os.environ.get("CC", "")) or [shutil.which("cc") or shutil.which("gcc") or "clang"]
    if shutil.which(compiler[0]) is None:
        raise RuntimeError("there is no C compiler (cc, gcc or clang)")
    here = Path(__file__).parent
    command = [*compiler, *FLAGS, *_instructions()]
    content = "\0".join([*command, os.uname().machine, *((here / name).read_text() for name in (*SOURCES, *HEADERS))])
    name = f"{hashlib.sha256(content.encode()).hexdigest()[:24]}.so"
    directory = _private(default_cache() / f"kernels-{os.getuid()}")
    if directory is None:
        _temporary.append(tempfile.TemporaryDirectory(prefix="proteinlm-"))
        directory = Path(_temporary[-1].name)
    target = directory / name
    if not target.exists():
        partial = directory / f".{name}.{os.uname().nodename}.{os.getpid()}"  # a cache may be shared by nodes
        try:
            subprocess.run(
                [*command, "-o", str(partial), *(str(here / source) for source in SOURCES)],
                check=True,
                capture_output=True,
                timeout=PATIENCE,
            )
            os.replace(partial, target)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{compiler[0]} took longer than {PATIENCE:.0f} s") from None
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace").strip().splitlines()
            raise RuntimeError(f"{compiler[0]} failed: {said[0] if said else error.returncode}") from None
        finally:
            partial.unlink(missing_ok=True)
    return target


def has_bf16_products() -> bool:
    """Whether the processor has instructions for products in bfloat16, and PyTorch is not kept from using them."""
    return has_avx512() and torch.cpu._is_avx512_bf16_supported()


def has_avx512() -> bool:
    """Whether the processor has AVX-512, and PyTorch is not kept from using it."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def _instructions() -> list[str]:
    chosen = INSTRUCTIONS.get(torch.backends.cpu.get_cpu_capability(), ())
    return [*chosen, BF16_PRODUCTS] if has_bf16_products() else [*chosen]


_temporary: list[tempfile.TemporaryDirectory[str]] = []


def _private(directory: Path) -> Path | None:
    """`directory`, made if it is not there; None unless this user alone can write to it, whose code is going to run."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.lstat()
    except OSError:
        return None
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    return directory if own and os.access(directory, os.W_OK) else None
