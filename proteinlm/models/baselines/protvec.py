"""Vectors of 3-grams: the n-gram forerunner of protein language models."""

from typing import final

import torch
from torch import Tensor, nn

from proteinlm import vocabulary
from proteinlm.config.baselines import TRIGRAM_LETTERS, ProtVecConfig
from proteinlm.models.packed import cls_positions, last_positions, with_means_at_cls

OTHER, HIDDEN, NOTHING = range(len(vocabulary.AMINO_ACIDS), TRIGRAM_LETTERS)


@final
class ProtVec(nn.Module):
    """ProtVec (Asgari and Mofrad 2015): a residue's state is the vector of the 3-gram around it.

    - Learnt by recovering the residue in the middle, as all rows are, where ProtVec was a skip-gram over 3-grams.
    - [CLS] has the mean of the 3-grams, where ProtVec summed them: a sum grows with the protein.
    """

    letters: Tensor

    def __init__(self, config: ProtVecConfig) -> None:
        super().__init__()
        self.trigrams = nn.Embedding(TRIGRAM_LETTERS**3, config.hidden_size)
        nn.init.normal_(self.trigrams.weight, std=config.hidden_size**-0.5)
        letters = torch.full((config.vocab_size,), OTHER)
        letters[: vocabulary.UNK] = NOTHING
        letters[vocabulary.MASK] = HIDDEN
        for index, letter in enumerate(vocabulary.AMINO_ACIDS):
            letters[vocabulary.IDS[letter]] = index
        self.register_buffer("letters", letters, persistent=False)

    def forward(self, tokens: Tensor, starts: Tensor, longest: int) -> Tensor:
        """Hidden states (T, H) of `tokens` (T,) int64, each protein opened by [CLS]; `starts` (B + 1,) bounds them."""
        letters = self.letters[tokens]
        left = letters.roll(1).index_fill(0, cls_positions(starts), NOTHING)
        right = letters.roll(-1).index_fill(0, last_positions(starts), NOTHING)
        return with_means_at_cls(self.trigrams((left * TRIGRAM_LETTERS + letters) * TRIGRAM_LETTERS + right), starts)
