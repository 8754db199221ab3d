"""TAPE's LSTM over packed proteins.

T tokens of packed proteins, B proteins, H hidden size, of which either direction has half, E embedding size.
"""

from typing import final

import torch
from torch import Tensor, nn

from proteinlm.config.baselines import LSTMConfig
from proteinlm.models.packed import RecurrentOrder, cls_positions, last_positions, recurrent_order

INITIAL_STD = 0.02  # of the embedding; the layers keep PyTorch's initial weights, as in TAPE


@final
class LSTM(nn.Module):
    """A stack that reads forward beside one that reads in reverse (TAPE ``modeling_lstm.py``): 3 layers of 1024 each.

    - [CLS] has the last states of both top layers. TAPE's pooler mixed those of all six and had a dense layer, which got
      no gradient in pretraining; our heads for [CLS] have the dense layer.
    - The reverse stack begins at the last residue: there is no [SEP].
    - TAPE's head for contacts was half as wide as these states, and crashed.
    """

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__()
        width = config.direction_size
        inputs = [config.embedding_size] + [width] * (config.num_layers - 1)
        self.token_embedding = nn.Embedding(config.vocab_size, config.embedding_size)
        self.ahead = nn.ModuleList(nn.LSTM(size, width) for size in inputs)
        self.back = nn.ModuleList(nn.LSTM(size, width) for size in inputs)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.token_embedding.weight, std=INITIAL_STD)

    def forward(self, tokens: Tensor, starts: Tensor, longest: int) -> Tensor:
        """Hidden states (T, H) of `tokens` (T,) int64, each protein opened by [CLS]; `starts` (B + 1,) bounds them."""
        ahead, back = self.directions(tokens, starts)
        whole = ahead.index_copy(0, cls_positions(starts), ahead.index_select(0, last_positions(starts)))
        return torch.cat((whole, back), dim=-1)

    def directions(self, tokens: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """The states at each token of the forward and of the reverse reading, (T, H / 2) each."""
        x = self.token_embedding(tokens)  # (T, E)
        forward, reverse = recurrent_order(starts), recurrent_order(starts, reverse=True)
        return self._read(self.ahead, x, forward), self._read(self.back, x, reverse)

    def _read(self, layers: nn.ModuleList, x: Tensor, by_step: RecurrentOrder) -> Tensor:
        x = x.index_select(0, by_step.order)
        for number, layer in enumerate(layers):
            assert isinstance(layer, nn.LSTM)
            x = run(layer, self.dropout(x) if number else x, by_step.sizes)
        return x.index_select(0, by_step.inverse)


def run(layer: nn.LSTM, x: Tensor, sizes: Tensor) -> Tensor:
    """Outputs (T, H / 2) of a layer for inputs by step."""
    # not by the layer's own forward: it remembers its weights, and FSDP puts others in their place
    weights: list[Tensor] = list(layer.parameters())
    # autocast's LSTM on the CPU has one precision for one protein and another for several
    with torch.autocast(x.device.type, enabled=False):
        state = x.new_zeros(1, int(sizes[0]), layer.hidden_size, dtype=torch.float32)
        output, *_ = torch.lstm(x.float(), sizes, (state, state), weights, True, 1, 0.0, layer.training, False)
    return output
