"""What the classifiers of document 000 share: the encoder, the head, gradients by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from seo_kernels.models.model import Model
from seo_kernels.models.seo_config import CustomModelConfig
from seo_kernels.models.seo_layers import TransformerBlock
from seo_kernels.nn.dropout import Dropout
from seo_kernels.nn.initialization import initialize
from seo_kernels.nn.linear import Linear
from seo_kernels.nn.pooling import AttentionPooling, pooling_layer
from seo_kernels.nn.sequences import bool_mask, check_embeddings, check_ids, check_tensor, present_positions
from seo_kernels.nn.token_encoder import TokenEncoder
from seo_kernels.ops.checks import kind


class PooledHead(nn.Module):
    """Pooling, dropout, a linear layer: (B, S, D), present bool (B, S) -> (B, num_classes).

    Args:
        width: D.
        num_classes: outputs.
        pooling_strategy: a name of ``pooling_layer``.
        use_attention_pooling: also join an attention-pooled vector to the other; nothing more where the
            strategy is attention already.
        dropout: in [0, 1).
    """

    def __init__(
        self, width: int, num_classes: int, pooling_strategy: str, use_attention_pooling: bool, dropout: float
    ) -> None:
        super().__init__()
        self.pools = nn.ModuleList([pooling_layer(pooling_strategy, width)])
        if use_attention_pooling and pooling_strategy != "attention":
            self.pools.append(AttentionPooling(width))
        self.dropout = Dropout(dropout)
        self.output = Linear(len(self.pools) * width, num_classes)

    def forward(self, hidden: Tensor, present: Tensor | None = None) -> Tensor:
        pooled = [pool(hidden, present) for pool in self.pools]
        return self.output(self.dropout(torch.cat(pooled, 1)))


class SEOModel(Model):
    """A transformer encoder; what comes on top of it is a subclass's.

    Args:
        config: of the encoder.

    Raises:
        TypeError: config is another object.
    """

    config_type = CustomModelConfig

    def __init__(self, config: CustomModelConfig) -> None:
        super().__init__()
        if not isinstance(config, CustomModelConfig):
            raise TypeError(f"config is {kind(config)}, expected a CustomModelConfig")
        self.config = config
        blocks = (
            TransformerBlock(
                config.hidden_size,
                config.num_heads,
                dropout=config.dropout_rate,
                activation=config.activation_function,
                use_layer_norm=config.use_layer_norm,
                use_residual_connections=config.use_residual_connections,
            )
            for _ in range(config.num_layers)
        )
        self.encoder = TokenEncoder(
            config.vocab_size,
            config.hidden_size,
            blocks,
            config.max_length,
            config.dropout_rate,
            layer_norm=config.use_layer_norm,
        )

    def _start(self) -> None:
        """Initialise all that the model is made of, and checkpoint it if that is configured."""
        # embeddings as large as the sinusoids that are added: else positions drown the words
        initialize(self, self.config.initialization_method, embedding_std=1.0)
        if self.config.gradient_checkpointing:
            self.gradient_checkpointing_enable()

    def encode(self, input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """A vector for each token (B, S, hidden_size), and which tokens are no padding: bool (B, S), or None.

        Args:
            input_ids: (B, S), or embeddings (B, S, hidden_size) in their place.
            attention_mask: (B, S) for padding or (B, S, S) for pairs of query and key, of any dtype, 1
                attends, 0 hides. In one of pairs, what no query sees is padding.

        Raises:
            TypeError: an argument of another kind or dtype.
            ValueError: a wrong shape, a sequence longer than max_length, an id that is out of the vocabulary,
                or a mask with other values than 0 and 1.
        """
        check_tensor("input_ids", input_ids, "a tensor of token ids (batch, length)")
        if input_ids.is_floating_point():
            check_embeddings(input_ids, self.config.hidden_size, "hidden_size", "input_ids")
        else:
            check_ids(input_ids, self.config.vocab_size, argument="input_ids")
        batch, length = input_ids.shape[:2]
        if length > self.config.max_length:
            raise ValueError(
                f"input_ids is {length} tokens long, expected at most max_length={self.config.max_length}"
            )
        if attention_mask is None:
            return self.encoder(input_ids), None
        mask = bool_mask(attention_mask, batch, length, length, "attention_mask")
        return self.encoder(input_ids, mask), present_positions(mask)

    def compute_gradients(self, loss: Tensor) -> dict[str, Tensor]:
        """The gradient of a loss for each parameter, by name; ``.grad`` stays as it is.

        Frozen parameters, and those that the loss does not depend on, are left out.

        Args:
            loss: a scalar; its graph is consumed.

        Raises:
            TypeError: the loss is no tensor.
            ValueError: it is no scalar, or depends on no parameter.
        """
        check_tensor("loss", loss, "a scalar that this model's outputs led to")
        if loss.numel() != 1:
            raise ValueError(f"loss has shape {tuple(loss.shape)}, expected a scalar")
        if not loss.requires_grad:
            raise ValueError("loss has no gradient, expected one that this model's outputs led to")
        trained = {name: value for name, value in self.named_parameters() if value.requires_grad}
        found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        gradients = {name: grad for name, grad in zip(trained, found, strict=True) if grad is not None}
        if not gradients:
            raise ValueError("loss depends on no parameter of this model")
        return gradients

    @torch.no_grad()
    def apply_gradients(self, gradients: Mapping[str, Tensor], optimizer: Optimizer) -> None:
        """One step of the optimizer with these gradients; what lies in ``.grad`` is neither used nor changed.

        Parameters of this model that are not named stay as they are.

        Args:
            gradients: by name, as ``compute_gradients`` returns them.
            optimizer: holds every parameter that is named.

        Raises:
            TypeError: an argument of another kind.
            ValueError: no gradient at all, an unknown name, another shape than the parameter's, or
                a parameter that the optimizer does not hold.
        """
        parameters = dict(self.named_parameters())
        _check_gradients(gradients, parameters, optimizer)
        before = {name: value.grad for name, value in parameters.items()}
        try:
            for name, value in parameters.items():
                given = gradients.get(name)
                value.grad = None if given is None else given.to(value)
            optimizer.step()
        finally:
            for name, value in parameters.items():
                value.grad = before[name]


def _check_gradients(
    gradients: Mapping[str, Tensor], parameters: Mapping[str, Tensor], optimizer: Optimizer
) -> None:
    if not isinstance(gradients, Mapping):
        raise TypeError(f"gradients is {kind(gradients)}, expected {{name: gradient}}")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer is {kind(optimizer)}, expected a torch.optim.Optimizer")
    if not gradients:
        raise ValueError("gradients is empty, expected {name: gradient}")
    unknown = [str(name) for name in gradients if name not in parameters]
    if unknown:
        raise ValueError(
            f"gradients names {', '.join(unknown)}, expected names of parameters such as "
            f"{next(iter(parameters))}"
        )
    held = {id(value) for group in optimizer.param_groups for value in group["params"]}
    for name, gradient in gradients.items():
        check_tensor(f"gradients[{name!r}]", gradient, "the gradient of that parameter")
        if gradient.shape != parameters[name].shape:
            raise ValueError(
                f"gradients[{name!r}] has shape {tuple(gradient.shape)}, expected the parameter's "
                f"{tuple(parameters[name].shape)}"
            )
        if id(parameters[name]) not in held:
            raise ValueError(f"gradients names {name}, which the optimizer does not hold")
