"""What stands at a protein's [CLS] in backbones that do not gather the protein there by themselves.

T tokens of packed proteins, B proteins, H hidden size.
"""

import torch
from torch import Tensor


def with_means(hidden: Tensor, starts: Tensor) -> Tensor:
    """Hidden states (T, H) with the mean over a protein's residues at each [CLS]; empty fillers have none.

    `starts` (B + 1,) bounds the proteins. Not a scatter-add, whose order of summation a GPU does not promise.
    """
    lengths = starts.diff().tolist()
    proteins = [protein for protein in hidden.split(lengths) if len(protein)]
    means = [protein[1:].mean(dim=0) if len(protein) > 1 else protein[0] for protein in proteins]
    return hidden.index_copy(0, openings(starts), torch.stack(means))


def openings(starts: Tensor) -> Tensor:
    """Places of the [CLS] (B',) int64, without empty fillers."""
    return starts[:-1][starts.diff() > 0].long()


def closings(starts: Tensor) -> Tensor:
    """Places of the last tokens (B',) int64, without empty fillers."""
    return starts[1:][starts.diff() > 0].long() - 1
