"""The MSA Transformer for inference: contacts, embeddings and effects of variants from an alignment.

R rows of the alignment, L residues of its query, D hidden size, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from proteinlm.data.alignments.reading import Alignment
from proteinlm.data.alignments.subsampling import DIVERSE, subsample
from proteinlm.data.progress import Bar
from proteinlm.errors import InputError
from proteinlm.inference.memory import free_memory
from proteinlm.interop.esm_msa import load_model
from proteinlm.models.msa_transformer import MASK, TOKENS, encode
from proteinlm.records.run_directory import WEIGHTS
from proteinlm.storage.checksums import sum_of

DEPTH = 256
"""Rows that its authors read at once."""


class MSAReader:
    """An imported MSA Transformer, and how rows are chosen for it."""

    def __init__(self, directory: Path, device: torch.device, depth: int = DEPTH, rows: str = DIVERSE) -> None:
        """Load the model in `directory`; `InputError` if it is none."""
        self.model = load_model(directory).to(device)
        self.device, self.depth, self.rows = device, depth, rows
        self.settings: dict[str, object] = {
            "method": "msa transformer",
            "weights": sum_of(directory / WEIGHTS),
            "depth": depth,
            "rows": rows,
        }

    @torch.inference_mode()
    def contacts(self, alignment: Alignment) -> np.ndarray:
        """Probabilities (L, L) float32 of contacts."""
        _, maps = self.model(self._tokens(alignment))
        return self.model.contact_probabilities(maps).cpu().numpy()

    @torch.inference_mode()
    def embed(self, alignment: Alignment) -> np.ndarray:
        """Hidden states (L, D) float32 of the query's residues."""
        hidden, _ = self.model(self._tokens(alignment))
        return hidden[0, 1:].cpu().numpy()

    def log_odds(self, alignment: Alignment, variants: Sequence[Mapping[int, str]]) -> list[float]:
        """Masked marginals: each mutated place of the query is hidden by itself, with a pass for each."""
        places = sorted({place for variant in variants for place in variant})
        logs = dict(zip(places, self._hidden_in_turn(alignment, places), strict=True))
        query = alignment.query.tobytes().decode()
        return [
            sum(
                float(logs[place][TOKENS.index(letter)] - logs[place][TOKENS.index(query[place])])
                for place, letter in variant.items()
            )
            for variant in variants
        ]

    @torch.inference_mode()
    def _hidden_in_turn(self, alignment: Alignment, places: Sequence[int]) -> list[np.ndarray]:
        """Log-probabilities (V,) of the tokens at each of `places` of the query."""
        tokens, found = self._tokens(alignment), []
        with Bar("scoring", len(places), of_bytes=False) as bar:
            for place in places:
                masked = tokens.clone()
                masked[0, place + 1] = MASK
                hidden, _ = self.model(masked)
                found.append(self.model.logits(hidden[0, place + 1]).log_softmax(dim=-1).cpu().numpy())
                bar.advance(1)
        return found

    def _tokens(self, alignment: Alignment) -> torch.Tensor:
        """Tokens (R, L + 1) of the rows that are read; `InputError` if they do not fit into memory."""
        chosen = subsample(alignment, min(self.depth, self.model.shape.max_rows), self.rows)
        needed = self.model.shape.bytes_needed(chosen.depth, chosen.columns)
        if needed > (there := free_memory(self.device)):
            raise InputError(
                f"{alignment.origin}: {chosen.depth} rows of {chosen.columns} residues take {needed / 1e9:.1f} GB, "
                f"and there are {there / 1e9:.1f} GB: read fewer by --depth"
            )
        return torch.from_numpy(encode(chosen.letters)).to(self.device)
