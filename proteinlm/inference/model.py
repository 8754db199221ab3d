"""A trained model for inference: ``load(path).embed(["MKT..."])``.

T tokens of packed proteins, B proteins, L residues of one, H hidden size, V vocabulary.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal, NamedTuple, final, overload

import numpy as np
import torch
from torch import Tensor, nn

from proteinlm import checkpoint, pretrained, vocabulary
from proteinlm.checkpoint import Weights
from proteinlm.checkpoint.published import CONTACTS
from proteinlm.config import ModelConfig, PublishedConfig
from proteinlm.config.baselines import family_of
from proteinlm.data.batches.packing import Packed, cut, pack_letters
from proteinlm.device import choose_precision, default_device
from proteinlm.errors import InputError
from proteinlm.inference.stretches import Stretches, mean_of_stretches
from proteinlm.models import registry
from proteinlm.models.backbone import Backbone
from proteinlm.models.baselines.unirep import UniRep
from proteinlm.models.heads import LanguageModelHead, NextResidueHead
from proteinlm.models.neural_potts import NeuralPotts
from proteinlm.models.packed import per_protein, sum_over_proteins
from proteinlm.models.published import PublishedBackbone

Pooling = Literal["mean", "cls", "residue"]
"""One vector for each protein (the mean over its residues, or the state at [CLS]), or one for each residue."""
POOLINGS: tuple[Pooling, ...] = ("mean", "cls", "residue")
PRECISIONS = ("auto", "fp32", "bf16-mixed")
NEURAL_POTTS = "neural_potts"
"""The prefix of the tensors of a neural Potts model, beside its backbone's."""
BATCH_TOKENS = {"cpu": 4_096, "cuda": 32_768}


class Placement(NamedTuple):
    """What a model computes on."""

    device: torch.device
    precision: str
    """``fp32`` or ``bf16-mixed``."""
    batch_tokens: int
    """Tokens that are computed at once; a longer protein is a batch by itself."""

    @classmethod
    def choose(cls, device: str = "auto", precision: str = "auto", batch_tokens: int = 0) -> "Placement":
        """Choose what is left open: a GPU if there is one, bfloat16 where it has the instructions, batches that fit.

        `InputError` for a device that torch does not know or find, and for another precision.
        """
        if precision not in PRECISIONS:
            raise InputError(f"--precision {precision} is not one of {', '.join(PRECISIONS)}")
        if batch_tokens < 0:
            raise InputError(f"--batch-tokens {batch_tokens} is negative")
        try:
            chosen = default_device() if device == "auto" else torch.device(device)
            torch.empty(0, device=chosen)
        except (RuntimeError, AssertionError, NotImplementedError):  # AssertionError: torch built without CUDA
            raise InputError(f"--device {device}: torch finds no such device") from None
        if precision == "auto" and chosen.type != "cuda":
            precision = "fp32"  # the same embeddings on every CPU
        return cls(
            chosen,
            choose_precision(chosen, precision),
            batch_tokens or BATCH_TOKENS.get(chosen.type, BATCH_TOKENS["cpu"]),
        )

    def autocast(self) -> AbstractContextManager[object]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def batches(self, proteins: Sequence[np.ndarray]) -> Iterator[tuple[list[int], Packed]]:
        """Proteins (L,) uint8 in order of their lengths, packed and on the device, with their places in `proteins`."""
        lengths = np.array([len(letters) for letters in proteins])
        order = np.argsort(lengths, kind="stable")
        for piece in cut(order, lengths[order] + 1, self.batch_tokens):
            yield piece.tolist(), self.to_device(pack_letters([proteins[place] for place in piece.tolist()]))

    def to_device(self, packed: Packed) -> Packed:
        return packed._replace(tokens=packed.tokens.to(self.device), starts=packed.starts.to(self.device))


def load(
    path: str | Path = pretrained.DIRECTORY,
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_tokens: int = 0,
    window: int = 0,
    overlap: int | None = None,
) -> "Model":
    """The model whose weights are in the directory `path`: pretrained, fine-tuned or imported.

    Without `path`, the model that comes with the suite (docs/model_card.md). With a `window`, a protein that is longer
    than the model has positions for is read in stretches of so many residues, of which `overlap` are shared by
    neighbours, half of them if it is None; without, it is an error. `InputError` if the directory holds no weights; see
    `Placement.choose` and `Stretches.choose` for the rest.
    """
    machine = Placement.choose(device, precision, batch_tokens)
    model = Model(checkpoint.load_weights(Path(path)), machine)
    model.stretches = Stretches.choose(window, overlap, model.positions)
    return model


class LoadedModel:
    """Weights on a device; the base of `Model` and of `predict.FineTuned`."""

    def __init__(self, weights: Weights, machine: Placement) -> None:
        self.config: ModelConfig = weights.config
        self.machine: Placement = machine
        self.fingerprint: str = weights.fingerprint
        self.origin: str = weights.origin
        self.stretches: Stretches | None = None
        """How proteins are read that are too long for the positions; None refuses them."""

    @property
    def name(self) -> str:
        """The name of the directory of the weights, or ``proteinlm`` for the model that comes with the suite."""
        directory = Path(self.origin).resolve()
        return "proteinlm" if directory == pretrained.DIRECTORY.resolve() else directory.name

    @property
    def positions(self) -> int:
        """The number of residues that the model has positions for."""
        return self.config.max_positions - 1

    @property
    def longest(self) -> int:
        """The number of residues of the longest protein that is read, in stretches or whole."""
        return sys.maxsize if self.stretches else self.positions

    @property
    def advice(self) -> str:
        """The end of the error of a protein that is too long: what reads it, if anything does."""
        return ""

    def stretches_of(self, residues: int) -> list[slice]:
        """The stretches in which a protein is read: one, the whole, if the model has positions for it."""
        if self.stretches and residues > self.positions:
            return self.stretches.of(residues)
        return [slice(0, residues)]


@final
class Model(LoadedModel):
    """A backbone with its language-model head, if that was saved, in evaluation mode."""

    def __init__(self, weights: Weights, machine: Placement) -> None:
        super().__init__(weights, machine)
        self.backbone: nn.Module = registry.build_for_weights(weights.config)
        modules: dict[str, nn.Module] = {"backbone": self.backbone}
        self._head: LanguageModelHead | None = None
        if "head.bias" in weights.tensors:  # no task's head has one
            modules["head"] = self._head = registry.language_model_head(weights.config)
        self.next_residue: NextResidueHead | None = None
        """The head of a UniRep that was imported: it predicts each residue from those before it."""
        if isinstance(self.backbone, UniRep) and "next_residue.output.weight" in weights.tensors:
            self.next_residue = NextResidueHead(weights.config.hidden_size, weights.config.vocab_size)
            modules["next_residue"] = self.next_residue
        self.neural_potts: NeuralPotts | None = None
        """The head that gives a Potts model of a protein's family, if that was saved."""
        if f"{NEURAL_POTTS}.matrices" in weights.tensors:
            try:
                self.neural_potts = NeuralPotts.of_sizes(weights.tensors, f"{NEURAL_POTTS}.")
            except (KeyError, ValueError, ArithmeticError) as error:
                raise InputError(f"{weights.origin}: damaged: no sizes of its neural Potts model: {error}") from None
            modules[NEURAL_POTTS] = self.neural_potts
        checkpoint.restore(modules, weights, share=True)
        self.contact_regression: tuple[Tensor, Tensor] | None = None
        """Coefficients (F,) and intercept (1,) over all heads that came with the weights, as they do with ESM's."""
        if CONTACTS[0] in weights.tensors:
            self.contact_regression = weights.tensors[CONTACTS[0]], weights.tensors[CONTACTS[1]]
        for module in modules.values():
            module.eval().requires_grad_(False).to(machine.device)

    @property
    def advice(self) -> str:
        return f"; --window {self.positions} reads it in windows" if self.next_residue is None else ""

    @property
    def encoder(self) -> Backbone | PublishedBackbone:
        """The backbone, if its blocks attend as ours do; `InputError` if not."""
        if not isinstance(self.backbone, Backbone | PublishedBackbone):
            raise InputError(f"{self.origin}: {family_of(self.config)}, of which only hidden states are to be had")
        return self.backbone

    @property
    def head(self) -> LanguageModelHead:
        """The language-model head; `InputError` if it was not saved."""
        if self._head is None:
            raise InputError(f"{self.origin}: no language-model head in it: name a pretrained model")
        return self._head

    @torch.inference_mode()
    def hidden_states(self, packed: Packed) -> Tensor:
        """Hidden states (T, H) float32 of packed proteins on the model's device."""
        with self.machine.autocast():
            return self.backbone(packed.tokens, packed.starts, packed.longest).float()

    @torch.inference_mode()
    def log_probabilities(self, packed: Packed, places: Tensor) -> Tensor:
        """Logarithms of the probabilities (K, V) float32 of every token at `places` (K,) of the packed stream.

        A letter that a published encoder does not know has the probability of the token that it is read as.
        """
        with self.machine.autocast():
            hidden = registry.states_at(self.backbone, packed.tokens, packed.starts, packed.longest, places)
            logits = self.head(hidden, registry.token_table(self.backbone))
        logs = logits.float().log_softmax(dim=-1)
        return logs[:, self.config.tokens] if isinstance(self.config, PublishedConfig) else logs

    @torch.inference_mode()
    def log_likelihoods(self, proteins: Sequence[np.ndarray]) -> np.ndarray:
        """The log-likelihood (N,) float64 of whole proteins (L,), each residue given those before it.

        A letter that the head does not score is taken for X. `InputError` if the model has no such head.
        """
        if self.next_residue is None or not isinstance(self.backbone, UniRep):
            raise InputError(f"{self.origin}: no head in it that predicts the next residue")
        scored = self.next_residue.output.bias.isfinite()  # (V,)
        result = np.zeros(len(proteins))
        for places, packed in self.machine.batches(proteins):
            with self.machine.autocast():
                states = self.backbone.states(packed.tokens, packed.starts)
                logs = self.next_residue(states).float().log_softmax(dim=-1)  # (T, V)
            targets = packed.tokens.where(scored[packed.tokens], vocabulary.IDS["X"]).roll(-1)
            each = logs.gather(1, targets.unsqueeze(1)).double()  # (T, 1): of the token that follows
            each[packed.starts[1:].long() - 1] = 0.0  # of what follows a protein
            result[places] = sum_over_proteins(each, packed.starts).squeeze(1).cpu().numpy()
        return result

    @overload
    def embed(self, sequences: Sequence[str], pooling: Literal["mean", "cls"] = "mean") -> np.ndarray: ...

    @overload
    def embed(self, sequences: Sequence[str], pooling: Literal["residue"]) -> list[np.ndarray]: ...

    def embed(self, sequences: Sequence[str], pooling: Pooling = "mean") -> np.ndarray | list[np.ndarray]:
        """Embeddings of proteins given by their letters: (N, H) float32, or for ``residue`` N arrays (L, H) float32.

        A protein that is read in stretches has, for each residue, the mean of its states in the stretches that contain
        it; ``mean`` is over those residues, and ``cls`` over the stretches' states at [CLS]. `InputError` names the place
        of a protein that is empty, too long, or has a letter outside the vocabulary.
        """
        if isinstance(sequences, str):  # itself a sequence of strings, of one residue each
            raise InputError("sequences is one string: give a list of proteins, as in ['MKTAYIAKQR']")
        if pooling not in POOLINGS:
            raise InputError(f"pooling {pooling!r} is not one of {', '.join(POOLINGS)}")
        embedded = self.pool([self._letters(place, sequence) for place, sequence in enumerate(sequences)], pooling)
        if pooling == "residue":
            return embedded
        return np.stack(embedded) if embedded else np.zeros((0, self.config.hidden_size), np.float32)

    def pool(self, proteins: Sequence[np.ndarray], pooling: Pooling) -> list[np.ndarray]:
        """Embeddings, (H,) or (L, H), of proteins (L,) of valid ASCII letters, in their order."""
        stretches = [self.stretches_of(len(letters)) for letters in proteins]
        whole = [place for place, parts in enumerate(stretches) if len(parts) == 1]
        result = dict(zip(whole, self._pool_whole([proteins[place] for place in whole], pooling), strict=True))
        for place, parts in enumerate(stretches):
            if len(parts) > 1:
                result[place] = self._pool_stretches(proteins[place], parts, pooling)
        return [result[place] for place in range(len(proteins))]

    def _pool_stretches(self, letters: np.ndarray, stretches: list[slice], pooling: Pooling) -> np.ndarray:
        pieces = [letters[stretch] for stretch in stretches]
        if pooling == "cls":
            return np.mean(self._pool_whole(pieces, "cls"), axis=0)
        states = mean_of_stretches(self._pool_whole(pieces, "residue"), stretches)
        return states if pooling == "residue" else states.mean(axis=0)

    def _pool_whole(self, proteins: Sequence[np.ndarray], pooling: Pooling) -> list[np.ndarray]:
        result: dict[int, np.ndarray] = {}
        for places, packed in self.machine.batches(proteins):
            parts = per_protein(self.hidden_states(packed), packed.starts)  # [CLS] first in each
            if pooling == "residue":
                result |= zip(places, (part[1:].cpu().numpy() for part in parts), strict=True)
            else:
                vectors = torch.stack([part[0] if pooling == "cls" else part[1:].mean(dim=0) for part in parts])
                result |= zip(places, vectors.cpu().numpy(), strict=True)
        return [result[place] for place in range(len(proteins))]

    def _letters(self, place: int, sequence: str) -> np.ndarray:
        try:
            vocabulary.encode(sequence)
            check_length(len(sequence), self.longest, self.advice.replace("--window ", "window="))
        except InputError as error:
            raise InputError(f"protein {place}: {error}") from None
        return np.frombuffer(sequence.encode(), dtype=np.uint8)


def check_length(residues: int, longest: int, advice: str = "") -> None:
    """`InputError` for a protein that is empty or longer than a model has positions for, with `advice` on the latter."""
    if not residues:
        raise InputError("an empty sequence")
    if residues > longest:
        raise InputError(f"{residues} residues, more than the {longest} that the model has positions for{advice}")
