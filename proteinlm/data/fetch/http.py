"""One file over HTTP: continued where it was cut, tried again when the network fails, complete or not there at all."""

import http.client
import logging
import re
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from proteinlm.data.progress import Bar
from proteinlm.errors import InputError

_log = logging.getLogger(__name__)

_BLOCK = 1 << 16
_MOST_CONNECTIONS = 1000
_NOT_SATISFIABLE = 416
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


class Effort(NamedTuple):
    """How hard to try."""

    attempts: int = 5
    """In a row without a single new byte."""
    wait: float = 0.5
    """Seconds after the first failure; twice as long after each further one."""
    timeout: float = 30.0
    """Seconds without a byte after which a connection counts as dead."""


def download(url: str, target: Path, largest: int, effort: Effort) -> None:
    """Fetch `url` to `target`, at most `largest` bytes; nothing is at `target` before all of them are.

    What has arrived is kept in ``.<name>.part`` beside it, with the server's tag of the file's version, and continued
    by the next call if the version is still the same. `InputError` names the address and the reason.
    """
    part = target.with_name(f".{target.name}.part")
    failures = 0
    for _ in range(_MOST_CONNECTIONS):
        before = _size(part)
        try:
            if _receive(url, part, largest, effort.timeout):
                part.replace(target)
                _forget(part)
                return
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            reason = f"the server answers {error.code} {error.reason}"
            error.close()
            if error.code == _NOT_SATISFIABLE and before:
                _forget(part)
            elif error.code not in _TRANSIENT:
                raise InputError(f"{url}: {reason}") from None
        except urllib.error.URLError as error:
            reason = f"{error.reason}"
        except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = f"{error}" or type(error).__name__
        failures = 1 if _size(part) > before else failures + 1
        if failures >= effort.attempts:
            raise InputError(f"{url}: cannot be fetched: {reason}")
        _log.info("%s: %s; trying again", url, reason)
        time.sleep(effort.wait * 2 ** (failures - 1))
    raise InputError(f"{url}: cannot be fetched: the connection was cut {_MOST_CONNECTIONS} times")


def _receive(url: str, part: Path, largest: int, timeout: float) -> bool:
    """Append to `part` what the server sends; whether that completes it."""
    request = urllib.request.Request(url, headers={"User-Agent": "proteinlm", "Accept-Encoding": "identity"})
    tag, have = _tag(part), _size(part)
    if have and tag.exists():
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", tag.read_text())  # the whole file if it is another one by now
    with urllib.request.urlopen(request, timeout=timeout) as response:
        continued = response.status == http.client.PARTIAL_CONTENT
        total = _total(response, have if continued else 0)
        if total is not None and total > largest:
            raise InputError(f"{url}: {total} bytes, more than the {largest} that are plausible")
        if total is not None and total - have * continued > shutil.disk_usage(part.parent).free:
            raise InputError(f"{url}: {total} bytes, more than {part.parent} has room for")
        if not continued:
            _forget(part)
            if version := response.headers.get("ETag") or response.headers.get("Last-Modified"):
                tag.write_text(version)
        with part.open("ab") as file, Bar(url.rsplit("/", 1)[-1], total) as bar:
            bar.advance(file.tell())
            while block := response.read1(_BLOCK):
                if file.tell() + len(block) > largest:
                    _forget(part)
                    raise InputError(f"{url}: more than the {largest} bytes that are plausible")
                file.write(block)
                bar.advance(len(block))
            return total is None or file.tell() == total


def _total(response: http.client.HTTPResponse, have: int) -> int | None:
    """Bytes of the whole file, as far as the server says."""
    if have:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != have:
            raise http.client.HTTPException("it continues at another place than asked")
        return int(found[2])
    length = response.headers.get("Content-Length")
    return int(length) if length is not None and length.isdigit() else None


def _tag(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag(part).unlink(missing_ok=True)
