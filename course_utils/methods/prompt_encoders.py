"""Small networks that compute virtual tokens while they are trained, and are dropped afterwards."""

from itertools import pairwise

from torch import Tensor, nn


class LSTMEncoder(nn.Module):
    """A bidirectional LSTM over the virtual tokens and an MLP behind it (arXiv:2103.10385, eq. 4).

    Args:
        d_model: Width of the tokens, in and out.
        hidden_size: Width of the LSTM, in each direction.
        num_layers: Layers of the LSTM.
        dropout: Between its layers.
    """

    def __init__(
        self, d_model: int, hidden_size: int, *, num_layers: int, dropout: float
    ) -> None:  # fmt: skip
        super().__init__()
        self.lstm = nn.LSTM(
            d_model, hidden_size, num_layers, dropout=dropout if num_layers > 1 else 0.0,
            bidirectional=True, batch_first=True,
        )  # fmt: skip
        self.mlp = mlp(2 * hidden_size, 2 * hidden_size, d_model)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (n, d_model) to the same shape."""
        return self.mlp(self.lstm(tokens[None])[0])[0]


def mlp(*widths: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Return linear layers of these widths with an activation between any two."""
    layers: list[nn.Module] = []
    for d_in, d_out in pairwise(widths):
        layers += [nn.Linear(d_in, d_out), activation()]
    return nn.Sequential(*layers[:-1])
