"""Runs the tests of compiled functions on what Clang makes of them, for this processor or for an emulated ARM.

``make test-clang`` runs ``pytest -p tests.clang.plugin --clang=x86 ...`` and ``--clang=arm``. Clang comes with zig, from
the package index; the ARM is unicorn's, in this process, whose memory it shares.
"""

import ctypes
import functools
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from unicorn import UC_ARCH_ARM64, UC_HOOK_MEM_READ_UNMAPPED, UC_HOOK_MEM_WRITE_UNMAPPED, UC_MODE_ARM, UC_PROT_ALL, Uc
from unicorn import arm64_const as arm

from proteinlm.models.kernels import compiler

CLANG = (sys.executable, "-m", "ziglang", "cc")
HERE = Path(__file__).parent
BASE, STACK, RETURN = 0x10_0000_0000, 0x20_0000_0000, 0x30_0000_0000
"""Addresses that Linux gives to no process: of the code, of the end of the stack, and where each call ends."""
STACK_SIZE = 1 << 20
PIECE = 1 << 20
"""Bytes of this process that the emulator is shown at once."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--clang", choices=("x86", "arm"), required=True)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--clang") == "x86":
        os.environ["CC"] = " ".join(CLANG)
        names = {"AVX512": "x86_64_v4", "AVX2": "x86_64_v3"}  # zig's for processors
        compiler.INSTRUCTIONS = {level: (f"-mcpu={name}",) for level, name in names.items()}
    else:
        compiler._load_once = functools.cache(lambda: Emulated(config.rootpath / ".pytest_cache/kernels-arm.so"))
        compiler.has_avx512 = compiler.has_bf16_products = lambda: False


class Emulated:
    """The functions of `compiler.SIGNATURES`, compiled to `target` for a 64-bit ARM, run by an emulator."""

    def __init__(self, target: Path) -> None:
        target.parent.mkdir(exist_ok=True)
        sources = [Path(compiler.__file__).with_name(name) for name in compiler.SOURCES]
        options = ["-target", "aarch64-linux-musl", *compiler.FLAGS, "-Wl,-Bsymbolic", "-o", target]
        subprocess.run([*CLANG, *options, *sources, HERE / "memory.c"], check=True)
        self.machine, self.alone = Uc(UC_ARCH_ARM64, UC_MODE_ARM), threading.Lock()
        with target.open("rb") as file:
            found = ELFFile(file)
            parts = [part for part in found.iter_segments() if part["p_type"] == "PT_LOAD"]
            size = max(part["p_vaddr"] + part["p_memsz"] for part in parts)
            self.machine.mem_map(BASE, (size // PIECE + 1) * PIECE)
            for part in parts:
                self.machine.mem_write(BASE + part["p_vaddr"], part.data())
            assert not any(
                section.num_relocations() for section in found.iter_sections() if section["sh_type"] == "SHT_RELA"
            )
            self.places = {
                symbol.name: symbol["st_value"] for symbol in found.get_section_by_name(".dynsym").iter_symbols()
            }
        self.machine.mem_map(STACK - STACK_SIZE, STACK_SIZE)
        self.machine.mem_map(RETURN, PIECE)
        self.machine.hook_add(UC_HOOK_MEM_READ_UNMAPPED | UC_HOOK_MEM_WRITE_UNMAPPED, self.show)

    def show(self, machine: Uc, access: int, address: int, size: int, value: int, data: object) -> bool:
        """Let the emulator see the piece of this process's memory in which it looks for `address`."""
        begin = address // PIECE * PIECE
        machine.mem_map_ptr(begin, PIECE, UC_PROT_ALL, begin)
        return True

    def __getattr__(self, name: str) -> Callable[..., int]:
        result, kinds = compiler.SIGNATURES[name]

        def call(*arguments: Any) -> int:
            values = [kind(value).value or 0 for kind, value in zip(kinds, arguments, strict=True)]
            whole = [value for kind, value in zip(kinds, values, strict=True) if kind is not ctypes.c_float]
            floats = [value for kind, value in zip(kinds, values, strict=True) if kind is ctypes.c_float]
            on_stack = struct.pack(f"<{len(whole[8:])}Q", *whole[8:])
            stack = STACK - (len(on_stack) + 15) // 16 * 16
            with self.alone:
                self.machine.mem_write(stack, on_stack)
                self.machine.reg_write(arm.UC_ARM64_REG_SP, stack)
                self.machine.reg_write(arm.UC_ARM64_REG_LR, RETURN)
                for register, value in enumerate(whole[:8]):
                    self.machine.reg_write(arm.UC_ARM64_REG_X0 + register, value)
                for register, value in enumerate(floats):
                    (bits,) = struct.unpack("<I", struct.pack("<f", value))
                    self.machine.reg_write(arm.UC_ARM64_REG_S0 + register, bits)
                self.machine.emu_start(BASE + self.places[name], RETURN)
                return ctypes.c_int64(self.machine.reg_read(arm.UC_ARM64_REG_X0)).value if result else 0

        return call
