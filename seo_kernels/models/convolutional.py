"""Convolutional models: features of a sequence, a deep residual network, and a network for images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from seo_kernels.models.model import Model
from seo_kernels.nn.activation import ReLU
from seo_kernels.nn.attention_inputs import shape_text
from seo_kernels.nn.convolution import Conv1DBlock, MultiKernelConv, ResidualBlock
from seo_kernels.nn.dropout import Dropout
from seo_kernels.nn.layer_stack import LayerStack
from seo_kernels.nn.linear import Linear
from seo_kernels.nn.pooling import MeanPooling, pooling_layer
from seo_kernels.nn.sequences import check_embeddings, check_tensor, padding_mask
from seo_kernels.nn.sizes import check_choice, check_probability, check_size, check_sizes

POOL_TYPES = {"max": "max", "avg": "mean"}


class CNNFeatureExtractor(Model):
    """Layers of convolutions of several kernel sizes, then pooling over the whole sequence.

    Args:
        input_dim: width of the embeddings.
        hidden_dims: channels per kernel size, layer by layer.
        kernel_sizes: of each layer.
        dropout, activation: as for ``Conv1DBlock``.
        pool_type: "max" or "avg".

    Attributes:
        output_dim: len(kernel_sizes) * hidden_dims[-1], the width of the features.

    Raises:
        TypeError, ValueError: a size, probability or name that is none.

    >>> import torch
    >>> extractor = CNNFeatureExtractor(6, hidden_dims=[4, 5], kernel_sizes=[3, 4])
    >>> extractor(torch.randn(2, 9, 6)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dims: Sequence[int] = (128, 256, 512),
        kernel_sizes: Sequence[int] = (3, 4, 5),
        dropout: float = 0.1,
        activation: str = "relu",
        pool_type: str = "max",
    ) -> None:
        super().__init__()
        self.input_dim = check_size("input_dim", input_dim)
        kernel_sizes = check_sizes("kernel_sizes", kernel_sizes)
        widths = check_sizes("hidden_dims", hidden_dims)
        inputs = [input_dim, *(len(kernel_sizes) * width for width in widths)]
        self.output_dim = inputs[-1]
        self.layers = LayerStack(
            MultiKernelConv(before, width, kernel_sizes, dropout, activation)
            for before, width in zip(inputs[:-1], widths, strict=True)
        )
        self.pool = pooling_layer(
            POOL_TYPES[check_choice("pool_type", pool_type, tuple(POOL_TYPES))], self.output_dim
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, S, input_dim) -> (B, output_dim).

        Args:
            mask: (B, S) of any dtype, 1 where there is something, 0 for padding.

        Raises:
            TypeError, ValueError: an argument that does not fit.
        """
        check_embeddings(x, self.input_dim, "input_dim")
        present = None if mask is None else padding_mask(mask, list(x.shape[:2]))
        return self.pool(self.features(x, present), present)

    def features(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Before pooling: (B, S, input_dim), present bool (B, S) -> (B, S, output_dim)."""
        return self.layers(x.transpose(1, 2), present).transpose(1, 2)


class DeepResidualCNN(Model):
    """Stages of residual blocks over embeddings, the mean over the sequence, and a classifier.

    Args:
        input_dim: width of the embeddings.
        hidden_dims: channels, stage by stage.
        num_classes: of the classifier.
        num_residual_blocks: of each stage.
        dropout: in [0, 1).

    Raises:
        TypeError, ValueError: a size or probability that is none.

    >>> import torch
    >>> DeepResidualCNN(8, hidden_dims=[8, 16], num_classes=3)(torch.randn(4, 12, 8)).shape
    torch.Size([4, 3])
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dims: Sequence[int] = (64, 128, 256, 512),
        num_classes: int = 2,
        num_residual_blocks: int = 3,
        dropout: float = 0.15,
    ) -> None:
        super().__init__()
        self.input_dim = check_size("input_dim", input_dim)
        widths = check_sizes("hidden_dims", hidden_dims)
        check_size("num_residual_blocks", num_residual_blocks)
        layers: list[nn.Module] = []
        for before, width in zip([input_dim, *widths[:-1]], widths, strict=True):
            layers.append(Conv1DBlock(before, width, bias=False, dropout=dropout))
            layers.extend(ResidualBlock(width, dropout=dropout) for _ in range(num_residual_blocks))
        self.layers = LayerStack(layers)
        self.pool = MeanPooling()
        self.dropout = Dropout(check_probability("dropout", dropout))
        self.classifier = Linear(widths[-1], check_size("num_classes", num_classes))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, S, input_dim) -> logits (B, num_classes).

        Args:
            mask: (B, S) of any dtype, 1 where there is something, 0 for padding.

        Raises:
            TypeError, ValueError: an argument that does not fit.
        """
        check_embeddings(x, self.input_dim, "input_dim")
        present: Tensor | None = None
        if mask is not None:
            present = padding_mask(mask, [x.size(0), x.size(1)])
        hidden = self.layers(x.transpose(1, 2), present).transpose(1, 2)
        return self.classifier(self.dropout(self.pool(hidden, present)))


class CustomCNNModel(Model):
    """Convolutions of stride 2 over images of any size, the mean over what is left, and a classifier.

    Args:
        input_channels: of the images.
        num_classes: of the classifier.
        hidden_dims: channels, stage by stage.
        dropout: before the classifier, in [0, 1).

    Raises:
        TypeError, ValueError: a size or probability that is none.

    >>> import torch
    >>> CustomCNNModel(input_channels=3, num_classes=10)(torch.randn(4, 3, 17, 30)).shape
    torch.Size([4, 10])
    """

    def __init__(
        self,
        input_channels: int = 3,
        num_classes: int = 10,
        hidden_dims: Sequence[int] = (32, 64, 128),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.input_channels = check_size("input_channels", input_channels)
        widths = check_sizes("hidden_dims", hidden_dims)
        self.layers = LayerStack(
            nn.Sequential(
                nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), ReLU()
            )
            for before, width in zip([input_channels, *widths[:-1]], widths, strict=True)
        )
        self.dropout = Dropout(check_probability("dropout", dropout))
        self.classifier = Linear(widths[-1], check_size("num_classes", num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, input_channels, H, W) -> logits (B, num_classes).

        Raises:
            TypeError: no floating-point tensor.
            ValueError: another shape.
        """
        expected = f"(batch, input_channels={self.input_channels}, height, width)"
        check_tensor("x", x, f"images {expected}")
        if not x.is_floating_point():
            raise TypeError(f"x has dtype {x.dtype}, expected floating point {expected}")
        if x.dim() != 4 or x.size(1) != self.input_channels or x.numel() == 0:
            raise ValueError(f"x has shape {shape_text(x)}, expected {expected}")
        return self.classifier(self.dropout(self.layers(x).mean((2, 3))))
