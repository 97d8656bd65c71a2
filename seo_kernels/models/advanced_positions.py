"""The documented positional encoding: sinusoids, a learned table, or rotations."""

from __future__ import annotations

from torch import Tensor, nn

from seo_kernels.models.advanced_config import POSITION_ENCODINGS
from seo_kernels.nn.dropout import Dropout
from seo_kernels.nn.positional_encoding import PositionalEncoding
from seo_kernels.nn.rotary import RotaryPositions
from seo_kernels.nn.sizes import check_choice, check_flag, check_probability


class AdvancedPositionalEncoding(nn.Module):
    """Embeddings with their positions, then dropout.

    Args:
        d_model: width of the embeddings; even for "rope".
        max_len: the longest sequence.
        dropout: in [0, 1).
        encoding_type: "sinusoidal": sinusoids are added (Vaswani et al. 2017, section 3.5); "learnable": a
            learned table is added; "rope": entries 2i and 2i + 1 are turned (Su et al. 2021; see
            ``RotaryPositions``).
        use_learnable: with "sinusoidal" a learned table is added too, which starts at zero; with "rope" each
            angle has a learned factor, which starts at one. "learnable" is the table itself.

    Raises:
        TypeError: an argument of another kind.
        ValueError: a size, probability or name that is none, or "learnable" with use_learnable=False.

    >>> import torch
    >>> AdvancedPositionalEncoding(8, encoding_type="rope")(torch.randn(50, 8)).shape
    torch.Size([50, 8])
    """

    def __init__(
        self,
        d_model: int,
        max_len: int = 5000,
        dropout: float = 0.1,
        encoding_type: str = "sinusoidal",
        use_learnable: bool = True,
    ) -> None:
        super().__init__()
        self.encoding_type = check_choice("encoding_type", encoding_type, POSITION_ENCODINGS)
        learnable = check_flag("use_learnable", use_learnable)
        self.encoding: RotaryPositions | PositionalEncoding
        if encoding_type == "rope":
            self.encoding = RotaryPositions(d_model, max_len, learnable=learnable)
        elif encoding_type == "sinusoidal":
            self.encoding = PositionalEncoding(d_model, max_len, 0.0, learnable=learnable)
        elif learnable:
            self.encoding = PositionalEncoding(d_model, max_len, 0.0, sinusoidal=False)
        else:
            raise ValueError(
                "encoding_type is 'learnable' with use_learnable=False, which leaves nothing; expected True"
            )
        self.dropout = Dropout(check_probability("dropout", dropout))

    def forward(self, x: Tensor) -> Tensor:
        """(S, d_model) or (B, S, d_model) -> the same.

        Raises:
            ValueError: another width, or a sequence longer than max_len.
        """
        return self.dropout(self.encoding(x))
