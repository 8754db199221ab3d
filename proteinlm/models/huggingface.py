"""Runs T5's encoder (ProtT5) by transformers behind our backbone's interface, so that all tasks and heads work on it.

It computes padded batches, where `proteinlm.models.published` packs other encoders. It has its own tokens: ours are
translated one by one, and the special tokens that its tokenizer puts around a protein are added. No other module needs
transformers.

T tokens of packed proteins, B proteins, L residues of the longest, S special tokens, H hidden size.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from proteinlm import vocabulary
from proteinlm.config import PUBLISHED, ForeignConfig
from proteinlm.errors import InputError, first_line
from proteinlm.models.packed import per_protein
from proteinlm.models.silence import silence_torchao
from proteinlm.storage.untrusted import read_json

MODEL_TYPE = "t5"
VOCABULARIES = ("tokenizer.json", "spiece.model", "tokenizer.model")
UNBOUNDED = 65_536  # positions of an encoder that has no table of them: the most that ours may have
WASTE = 1.25
"""Longest protein of a padded batch over its shortest: at most a fifth of a batch is padding."""


@final
class ForeignBackbone(nn.Module):
    """Computes one hidden state per token of packed proteins, as `Backbone` does, in padded batches.

    The state of our [CLS] is the mean over the residues: T5 has no special token there.
    """

    tokens: Tensor

    def __init__(self, config: ForeignConfig) -> None:
        super().__init__()
        self.encoder = _encoder(config.architecture)
        self.prefix, self.suffix = config.prefix, config.suffix
        self.padding = config.tokens[vocabulary.PAD]
        self.register_buffer("tokens", torch.tensor(config.tokens), persistent=False)

    def forward(self, tokens: Tensor, starts: Tensor, longest: int) -> Tensor:
        """Hidden states (T, H) of `tokens` (T,) int64, each protein opened by [CLS]; `starts` (B + 1,) bounds them."""
        proteins = [protein[1:] for protein in per_protein(self.tokens[tokens], starts)]
        states = [state for batch in _batches(proteins) for state in self._states(batch)]
        return torch.cat(states)

    def _states(self, proteins: list[Tensor]) -> Iterator[Tensor]:
        """Hidden states (L + 1, H) of each protein (L,) of one padded batch."""
        prefix, suffix = (proteins[0].new_tensor(special) for special in (self.prefix, self.suffix))
        rows = [torch.cat([prefix, protein, suffix]) for protein in proteins]
        ids = pad_sequence(rows, batch_first=True, padding_value=self.padding)  # (B, L + S)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, L + S, H)
        for states, protein in zip(hidden, proteins, strict=True):
            residues = states[len(prefix) : len(prefix) + len(protein)]
            opening = states[:1] if len(prefix) else residues.mean(dim=0, keepdim=True)
            yield torch.cat([opening, residues])


def is_foreign(directory: Path) -> bool:
    """Whether `directory` is one of Hugging Face."""
    file = directory / "config.json"
    try:
        return file.is_file() and "model_type" in read_json(file)
    except (ValueError, TypeError):
        return False


def read(directory: Path) -> tuple[ForeignConfig, dict[str, Tensor], str]:
    """Read the encoder in `directory`: its shape, its tensors as `ForeignBackbone` names them, and their fingerprint.

    Raises `InputError` for another class of model, a file that is missing or needs code of its own, and without
    transformers.
    """
    architecture = read_json(directory / "config.json")
    if architecture["model_type"] != MODEL_TYPE:
        known = ", ".join((*PUBLISHED, MODEL_TYPE))
        raise InputError(f"{directory}: model_type {architecture['model_type']!r} is not one of {known}")
    if not any((directory / file).is_file() for file in VOCABULARIES):  # without one transformers makes an empty one
        raise InputError(f"{directory}: no vocabulary of its tokenizer in it: none of {', '.join(VOCABULARIES)}")
    transformers = _transformers()
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory, **options)
        model, loading = transformers.T5EncoderModel.from_pretrained(
            directory, **options, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # transformers says in many ways that a file is missing, damaged or another's
        raise InputError(f"{directory}: not readable by transformers: {first_line(error)}") from None
    if loading["missing_keys"]:
        raise InputError(f"{directory}: no tensor {sorted(loading['missing_keys'])[0]}")
    tokens = _tokens(tokenizer, directory)
    prefix, suffix = _specials(tokenizer, tokens, directory)
    values = model.config
    config = ForeignConfig(
        hidden_size=values.hidden_size,
        num_layers=values.num_hidden_layers,
        num_heads=values.num_attention_heads,
        max_positions=UNBOUNDED,
        vocab_size=values.vocab_size,
        architecture=json.loads(values.to_json_string(use_diff=False)),
        tokens=tokens,
        prefix=prefix,
        suffix=suffix,
    )
    tensors = {f"backbone.encoder.{key}": tensor for key, tensor in model.encoder.state_dict().items()}
    whole = hashlib.sha256(json.dumps(tokens).encode())
    for key in sorted(tensors):
        whole.update(key.encode() + tensors[key].contiguous().numpy().tobytes())
    return config, tensors, whole.hexdigest()[:12]


def _encoder(architecture: dict[str, Any]) -> nn.Module:
    """An encoder with random weights."""
    transformers = _transformers()
    values = transformers.AutoConfig.for_model(**architecture)
    return transformers.T5EncoderModel(values).encoder


def _tokens(tokenizer: Any, directory: Path) -> list[int]:
    """T5's token for each of ours; letters that it does not know are its X, or else unknown."""
    known = tokenizer.get_vocab()

    def letter(name: str) -> int | None:
        return known.get(name, known.get(f"▁{name}"))  # ▁: sentencepiece's beginning of a word

    special = {"[PAD]": tokenizer.pad_token_id, "[CLS]": tokenizer.cls_token_id, "[SEP]": tokenizer.sep_token_id}
    special |= {"[MASK]": tokenizer.mask_token_id, "[UNK]": tokenizer.unk_token_id}
    unknown = next((token for token in (letter("X"), tokenizer.unk_token_id) if token is not None), None)
    missing = [name for name in vocabulary.AMINO_ACIDS if letter(name) is None]
    if missing or unknown is None or tokenizer.pad_token_id is None:
        what = f"the amino acid {missing[0]}" if missing else "padding or unknown letters"
        raise InputError(f"{directory}: its tokenizer has no token for {what}: not a model of proteins")
    found = (special.get(token) if token.startswith("[") else letter(token) for token in vocabulary.TOKENS)
    return [unknown if token is None else token for token in found]


def _specials(tokenizer: Any, tokens: list[int], directory: Path) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a protein."""
    ids, alanine = tokenizer("A")["input_ids"], tokens[vocabulary.IDS["A"]]
    place = ids.index(alanine) if alanine in ids else 0
    prefix, suffix = ids[:place], ids[place + 1 :]
    if alanine not in ids or len(prefix) > 1:
        raise InputError(f"{directory}: its tokenizer makes {ids} of the protein A, whose token is {alanine}")
    return prefix, suffix


def _batches(proteins: list[Tensor]) -> Iterator[list[Tensor]]:
    """Group neighbours of similar length; micro-batches are sorted by it."""
    batch: list[Tensor] = []
    for protein in proteins:
        bounds = sorted((len(batch[0]), len(protein))) if batch else (1, 1)
        if batch and bounds[1] > WASTE * bounds[0]:
            yield batch
            batch = []
        batch.append(protein)
    if batch:
        yield batch


def _transformers() -> Any:
    silence_torchao()
    try:
        import transformers
    except ImportError:
        raise InputError("an encoder of Hugging Face needs transformers: pip install 'proteinlm[interop]'") from None
    transformers.logging.set_verbosity_error()  # it reports the heads that we leave out, a table for each
    transformers.logging.disable_progress_bar()
    return transformers
