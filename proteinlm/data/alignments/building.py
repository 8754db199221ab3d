"""Builds alignments: searches proteins at hand for a query's relatives with a profile, round after round, as jackhmmer does.

The search is HMMER's, by pyhmmer. Each round aligns what the last one found, makes a profile of it, and searches again.

N rows, L residues of the query.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from proteinlm.data.alignments.reading import GAP
from proteinlm.data.formats.fasta import read_fasta
from proteinlm.data.formats.letters import UNKNOWN, Letters
from proteinlm.data.progress import Bar
from proteinlm.errors import InputError
from proteinlm.storage.atomic import write_text
from proteinlm.storage.names import file_name
from proteinlm.vocabulary import UNKNOWN_LETTER

CHUNK = 10_000  # proteins that are searched between two steps of the progress bar
SEARCH = "search.json"
"""Beside the alignments: the corpus and the search that they are of."""
_SMALLER = 0x20  # the bit by which ASCII letters differ by case


@dataclass(frozen=True)
class Search:
    """What counts as a relative."""

    rounds: int = 3
    """At most; the search ends earlier when a round finds nothing new."""
    evalue: float = 1e-3
    """Of a protein, and of each of its domains, that is taken into the next profile and into the alignment."""
    coverage: float = 0.5
    """The share of the query's residues that a row must have."""


class Corpus:
    """Proteins to search, in memory: about one byte for each residue and 300 for each protein."""

    def __init__(self, path: Path) -> None:
        """Read a FASTA file, plain, .gz or .xz; `InputError` for what is none."""
        easel = _pyhmmer().easel
        alphabet = easel.Alphabet.amino()
        self.chunks: list[Any] = []
        self.proteins = 0
        try:
            for name, letters in _proteins(path):
                if self.proteins % CHUNK == 0:
                    self.chunks.append(easel.DigitalSequenceBlock(alphabet))
                self.chunks[-1].append(easel.TextSequence(name=name, sequence=letters).digitize(alphabet))
                self.proteins += 1
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from None

    def align(self, name: str, query: str, search: Search | None = None) -> list[tuple[str, str]]:
        """Names and a3m rows of a query, first, and of the relatives that a search finds in the corpus."""
        search = search or Search()
        pyhmmer = _pyhmmer()
        easel, plan7 = pyhmmer.easel, pyhmmer.plan7
        alphabet = easel.Alphabet.amino()
        asked = easel.TextSequence(name=name.encode(), sequence=query).digitize(alphabet)
        # a profile has the columns of the query in every round
        builder, background = plan7.Builder(alphabet, architecture="hand"), plan7.Background(alphabet)
        profile, _, _ = builder.build(asked, background)
        found: set[object] = set()
        aligned: Any = None
        for number in range(search.rounds):
            hits = self._search(profile, alphabet, search, f"{name}: round {number + 1}")
            names = {hit.name for hit in hits if hit.included and any(domain.included for domain in hit.domains)}
            if not names:
                break
            trace = plan7.Trace.from_sequence(asked)
            aligned = hits.to_msa(alphabet, [asked], [trace], digitize=True, all_consensus_cols=True)
            aligned.name = name.encode()
            if names <= found:
                break
            found = names
            profile, _, _ = builder.build_msa(aligned, background)
        if aligned is None:
            return [(name, query)]
        plain = aligned.textize()
        rows = [(_text(name), row) for name, row in zip(plain.names, plain.alignment, strict=True)]
        return a3m_rows(name, query, rows, search)

    def _search(self, profile: Any, alphabet: Any, search: Search, title: str) -> Any:
        plan7 = _pyhmmer().plan7
        limits = {"E": search.evalue, "incE": search.evalue, "domE": search.evalue, "incdomE": search.evalue}
        parts = []
        with Bar(title, self.proteins, of_bytes=False) as bar:
            for chunk in self.chunks:
                pipeline = plan7.Pipeline(alphabet, Z=self.proteins, **limits)
                parts.append(pipeline.search_hmm(profile, chunk))
                bar.advance(len(chunk))
        return parts[0].merge(*parts[1:])


def a3m_rows(name: str, query: str, rows: Sequence[tuple[str, str]], search: Search) -> list[tuple[str, str]]:
    """The query and the rows of an alignment that cover enough of it, with insert states in lower case.

    `rows` have one column for each letter of the query's own row, which is among them under `name` and comes first.
    """
    letters = np.array([np.frombuffer(row.upper().encode(), np.uint8) for _, row in rows])
    letters[(letters == ord(".")) | (letters == ord("~")) | (letters == ord("*"))] = GAP
    own = next(place for place, (row, _) in enumerate(rows) if row == name and _residues(letters[place]) == query)
    in_query = letters[own] != GAP
    kept = [(name, query)]
    for place, (row, _) in enumerate(rows):
        here = letters[place]
        covered = (here[in_query] != GAP).mean()
        if place == own or covered < search.coverage:
            continue
        shown = np.where(in_query, here, here | _SMALLER)[in_query | (here != GAP)]
        kept.append((row, shown.tobytes().decode()))
    return kept


def align_all(queries: Path, corpus: Path, directory: Path, search: Search) -> Iterator[tuple[Path, int, bool]]:
    """Write one a3m file of each query into `directory`; gives the file, its number of rows, and whether it is new.

    A file that is there is kept, so that an interrupted search goes on. `InputError` if the directory belongs to another
    corpus or search, and for two queries whose names are the same as `file_name`.
    """
    wanted = [(_text(name), letters) for name, letters in _proteins(queries)]
    files = [directory / f"{file_name(name)}.a3m" for name, _ in wanted]
    for place, (name, _) in enumerate(wanted):
        if files[place] in files[:place]:
            raise InputError(f"{queries}: record {place} ({name}): a name that came before, as {files[place].stem}")
    _claim(directory, corpus, search)
    missing = {file for file in files if not file.is_file()}
    searched = Corpus(corpus) if missing else None
    for (name, letters), file in zip(wanted, files, strict=True):
        if searched and file in missing:
            write_text(file, write_a3m(searched.align(name, letters, search)))
        yield file, file.read_text().count(">"), file in missing


def _claim(directory: Path, corpus: Path, search: Search) -> None:
    """Make `directory` the home of a search, or refuse if it is another's."""
    if not corpus.is_file():
        raise InputError(f"{corpus}: no such file")
    size = corpus.stat().st_size
    made = json.dumps({"corpus": corpus.name, "bytes": size, **asdict(search)}, indent=2) + "\n"
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / SEARCH
    if file.is_file() and file.read_text() != made:
        raise InputError(f"{directory}: belongs to another corpus or search ({file}): name another directory by --out")
    write_text(file, made)


def write_a3m(rows: Sequence[tuple[str, str]]) -> str:
    """The text of an a3m file."""
    return "".join(f">{name}\n{row}\n" for name, row in rows)


def _residues(row: np.ndarray) -> str:
    return row[row != GAP].tobytes().decode()


def _proteins(path: Path) -> Iterator[tuple[bytes, str]]:
    """The first word of each header, and the letters, with X for what is no residue."""
    plain = path.suffix not in (".gz", ".xz")
    number = 0
    with Bar("reading proteins", path.stat().st_size if plain else None) as bar:
        for block in read_fasta(path, lambda raw: bar.advance(len(raw)), Letters(UNKNOWN)):
            headers = np.split(block.headers, np.cumsum(block.header_lengths)[:-1])
            sequences = np.split(block.letters, np.cumsum(block.lengths)[:-1])
            for header, sequence in zip(headers, sequences, strict=True):
                words = header[1:].tobytes().split(maxsplit=1)
                letters = sequence.tobytes().decode().replace(UNKNOWN_LETTER, "X")
                yield words[0] if words else f"record_{number}".encode(), letters
                number += 1


def _text(name: bytes | str) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else name


def _pyhmmer() -> Any:
    try:
        import pyhmmer  # type: ignore[import-not-found]
    except ImportError:
        raise InputError("data align needs pyhmmer: pip install 'proteinlm[align]'") from None
    return pyhmmer
