"""P-tuning: a network computes the virtual tokens (Liu et al., 2021, arXiv:2103.10385)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from course_utils.memory.trained import Trained
from course_utils.methods.virtual_tokens import (
    InputPrompt,
    SoftPromptConfig,
    VirtualTokens,
    among_embeddings,
    mlp,
)
from course_utils.models.kernels import without_autocast
from course_utils.validation import check_choice, check_count, check_number

if TYPE_CHECKING:
    from course_utils.memory.architecture import Architecture


class LSTMEncoder(nn.Module):
    """A bidirectional LSTM over the virtual tokens and an MLP behind it (arXiv:2103.10385, eq. 4).

    Args:
        d_model: Width of the tokens, in and out.
        hidden_size: Width of the LSTM, in each direction.
        num_layers: Layers of the LSTM.
        dropout: Between its layers.
    """

    def __init__(self, d_model: int, hidden_size: int, *, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(
            d_model,
            hidden_size,
            num_layers,
            dropout=dropout if num_layers > 1 else 0.0,
            bidirectional=True,
            batch_first=True,
        )
        self.mlp = mlp(2 * hidden_size, 2 * hidden_size, d_model)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (n, d_model) to the same shape."""
        # Not every processor has an LSTM in 16 bits, and this one reads a handful of tokens.
        with without_autocast(tokens):
            return self.mlp(self.lstm(tokens[None])[0])[0]


@dataclass(frozen=True, kw_only=True)
class PTuningConfig(SoftPromptConfig):
    """Train a network that computes the virtual tokens (arXiv:2103.10385, section 3.2).

    Once trained, the tokens are all that is needed: ``drop_encoder``.

    Args:
        num_virtual_tokens: Virtual tokens n before every text.
        encoder: ``"mlp"``, or ``"lstm"``: a bidirectional LSTM and an MLP behind it.
        hidden_size: Inner width; the model's by default.
        num_layers: Layers of the LSTM.
        dropout: Between the layers of the LSTM.

    Raises:
        ValueError: If a value is out of range.
    """

    encoder: Literal["mlp", "lstm"] = "mlp"
    hidden_size: int | None = None
    num_layers: int = 2
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("encoder", self.encoder, ("mlp", "lstm"))
        check_count("hidden_size", self.hidden_size, at_most=2**16, is_none_ok=True)
        check_count("num_layers", self.num_layers, at_most=2**7)
        check_number("dropout", self.dropout, at_least=0, below=1)

    def make(self, model: nn.Module) -> InputPrompt:
        """Return fresh virtual tokens for ``model``, and their encoder."""
        d_model = model.get_input_embeddings().weight.shape[1]
        start = torch.randn(self.num_virtual_tokens, d_model)
        return InputPrompt(VirtualTokens(start, self.network(d_model)))

    def network(self, d_model: int) -> nn.Module:
        """Return the encoder, (n, d_model) to (n, d_model)."""
        hidden = self.hidden_size or d_model
        if self.encoder == "lstm":
            return LSTMEncoder(d_model, hidden, num_layers=self.num_layers, dropout=self.dropout)
        return mlp(d_model, hidden, hidden, d_model)

    def footprint(self, architecture: "Architecture") -> Trained:
        """Return what trains, for ``memory.estimate``: tokens, and what computes them."""
        with torch.device("meta"):
            encoder = tuple(p.numel() for p in self.network(architecture.d_model).parameters())
        hidden = self.hidden_size or architecture.d_model
        kept = 2 * self.num_virtual_tokens * hidden if self.encoder == "mlp" else 0
        return among_embeddings(
            architecture, self.num_virtual_tokens, encoder=encoder, encoder_keeps=kept
        )
