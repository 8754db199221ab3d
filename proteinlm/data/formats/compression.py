"""The content of a plain, gzip or xz file in blocks, with every defect of the compression noticed."""

import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

from proteinlm.errors import InputError

Watch = Callable[[bytes], object]
"""Shown the raw bytes of a source, in order."""

_GZIP = b"\x1f\x8b"
_RAW = 1 << 16  # gzip grows at most 1032 times: 64 MiB in memory
_BLOCK = 1 << 22
_XZ_MEMORY = 1 << 30  # `xz -9` asks for 65 MiB; a header can ask for 4 GiB


def read_blocks(path: Path, watch: Watch) -> Iterator[bytes]:
    """The decompressed content of `path`, which ends in .gz, .xz or anything else: plain, unless it begins as gzip does.

    A file that ends too early or has damaged content raises `InputError`, also after the first of several compressed
    streams, where `gzip` and `lzma` of the standard library can take what follows for padding.
    """
    with path.open("rb") as file:
        chunks = _watched(iter(partial(file.read, _RAW), b""), watch)
        first = next(chunks, b"")
        chunks = chain((first,), chunks)
        is_gzip = path.suffix == ".gz" or first.startswith(_GZIP)  # standard input has no suffix
        if not is_gzip and path.suffix != ".xz":
            yield from chunks
            return
        try:
            yield from _decompressed(chunks, _gzip if is_gzip else _xz)
        except EOFError:
            raise InputError(f"{path}: ends before its compressed content does: the file is truncated") from None
        except (lzma.LZMAError, zlib.error) as error:
            raise InputError(f"{path}: damaged: {error}") from None


def read_text(path: Path) -> str:
    """The whole of a plain or compressed file as UTF-8; `InputError` if it cannot be read or is something else."""
    try:
        return b"".join(read_blocks(path, lambda raw: None)).decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text in UTF-8, at byte {error.start}") from None


def _watched(chunks: Iterable[bytes], watch: Watch) -> Iterator[bytes]:
    for chunk in chunks:
        watch(chunk)
        yield chunk


def _decompressed(
    chunks: Iterable[bytes], new_decoder: Callable[[], "lzma.LZMADecompressor | zlib._Decompress"]
) -> Iterator[bytes]:
    decoder = new_decoder()
    for chunk in chunks:
        while chunk:
            if decoder.eof:
                chunk = chunk.lstrip(b"\0")  # padding between streams
                if not chunk:
                    break
                decoder = new_decoder()
            yield from _decode(decoder, chunk)
            chunk = decoder.unused_data
    if not decoder.eof:
        raise EOFError


def _decode(decoder: "lzma.LZMADecompressor | zlib._Decompress", chunk: bytes) -> Iterator[bytes]:
    if isinstance(decoder, lzma.LZMADecompressor):
        yield decoder.decompress(chunk, _BLOCK)
        while not decoder.eof and not decoder.needs_input:
            yield decoder.decompress(b"", _BLOCK)
    else:
        yield decoder.decompress(chunk)


def _gzip() -> "zlib._Decompress":
    return zlib.decompressobj(wbits=31)  # 31: a gzip header and trailer, with its checksum


def _xz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(memlimit=_XZ_MEMORY)
