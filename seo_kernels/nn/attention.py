"""``MultiheadAttention``: torch's layer on fused attention, with patterns and relative positions."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from seo_kernels.nn.attention_inputs import check_operands, check_shapes, translate_masks
from seo_kernels.nn.attention_projection import append_keys, merge_heads, project
from seo_kernels.nn.attention_scripted import scripted_attention, scripted_visibility
from seo_kernels.nn.attention_weights import attention_weights, weighted_values
from seo_kernels.nn.dropout import dropped
from seo_kernels.nn.fast_path import ForwardGuard
from seo_kernels.nn.relative import check_relative
from seo_kernels.ops.arguments import MAX_DIM, normalise
from seo_kernels.ops.attention import attention
from seo_kernels.patterns import Causal, Dense, Pattern

_NO_POSITION = "expected neither: the key that these append stands at no position"


class MultiheadAttention(nn.MultiheadAttention):
    """``torch.nn.MultiheadAttention`` (Vaswani et al. 2017, section 3.2.2) on ``sk.attention``.

    It takes that layer's place: same constructor, state_dict, forward arguments with their meaning, and
    returned tuple; also as ``self_attn`` of a ``torch.nn.TransformerEncoderLayer``, which it keeps from its
    fast path, and under ``torch.jit.script``.

    Args:
        embed_dim, num_heads, dropout, bias, add_bias_kv, add_zero_attn, kdim, vdim, batch_first, device and
            dtype: as for ``torch.nn.MultiheadAttention``; dropout in [0, 1),
            embed_dim // num_heads at most 256.
        pattern: who attends to whom, such as ``sk.Local(128) & sk.Causal()``, beside the masks of the call.
        relative: the module of the relative position tables: a ``RelativePositionTables``, or any module that
            gives an ``sk.RelativePosition`` when called (for TorchScript it has a method ``tables`` as well).
            It becomes the submodule ``relative``.

    Where query and key differ in length, pattern and relative count positions as ``sk.attention`` does: the
    last query stands at the last key.

    Raises:
        TypeError: pattern or relative is of another kind.
        ValueError: dropout or head dimension out of range; relative made for other heads; a pattern or
            relative together with add_bias_kv or add_zero_attn, whose appended key stands at no position.

    Different from torch's layer: a query that sees no key gets zeros, not NaN; wrong shapes are ValueErrors;
    out_proj is called as a module, so that one put in its place (LoRA) counts; and ``need_weights=True``,
    torch's default, computes in plain torch and costs the (N, num_heads, L, S) tensor: pass False for speed.

    >>> layer = MultiheadAttention(64, 4, batch_first=True, pattern=Causal())
    >>> x = torch.randn(2, 10, 64)
    >>> layer(x, x, x, need_weights=False)[0].shape
    torch.Size([2, 10, 64])
    """

    __jit_unused_properties__ = ("pattern",)
    if TYPE_CHECKING:  # at run time TorchScript would take it for the attribute's type
        relative: Any

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        pattern: Pattern | None = None,
        relative: nn.Module | None = None,
    ) -> None:
        super().__init__(
            embed_dim,
            num_heads,
            dropout,
            bias,
            add_bias_kv,
            add_zero_attn,
            kdim,
            vdim,
            batch_first,
            device,
            dtype,
        )
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout is {dropout}, expected a number in [0, 1)")
        if self.head_dim > MAX_DIM:
            raise ValueError(f"embed_dim // num_heads is {self.head_dim}, expected at most {MAX_DIM}")
        self.appended_keys = int(add_bias_kv) + int(add_zero_attn)
        self.forward_guard = ForwardGuard()
        self.pattern = pattern
        if relative is not None:
            check_relative(relative, self.num_heads, self.head_dim)
            if self.appended_keys > 0:
                raise ValueError(f"relative is given with add_bias_kv or add_zero_attn, {_NO_POSITION}")
        self.relative = relative

    @classmethod
    def from_torch(
        cls,
        layer: nn.MultiheadAttention,
        *,
        pattern: Pattern | None = None,
        relative: nn.Module | None = None,
    ) -> "MultiheadAttention":
        """This layer in place of one of torch's, whose parameters and out_proj it takes over: they are the
        same objects, not copies.

        Raises:
            TypeError: layer is of another class, a subclass included: its forward would be lost.
            ValueError: layer has hooks, which would be lost.
        """
        if type(layer) is not nn.MultiheadAttention:
            raise TypeError(f"layer is a {type(layer).__name__}, expected a torch.nn.MultiheadAttention")
        hooks = (
            layer._forward_pre_hooks,
            layer._forward_hooks,
            layer._backward_pre_hooks,
            layer._backward_hooks,
        )
        if any(hooks):
            raise ValueError(
                "layer has forward or backward hooks, expected none: they would not be called any more"
            )
        new = cls(
            layer.embed_dim,
            layer.num_heads,
            layer.dropout,
            layer.in_proj_bias is not None,
            layer.bias_k is not None,
            layer.add_zero_attn,
            layer.kdim,
            layer.vdim,
            layer.batch_first,
            device="meta",
            pattern=pattern,
            relative=relative,
        )
        for name, parameter in layer.named_parameters(recurse=False):
            setattr(new, name, parameter)
        new.out_proj = layer.out_proj
        return new.train(layer.training)

    @property
    def pattern(self) -> Pattern | None:
        """Who attends to whom; may be set anew."""
        return self._pattern

    @pattern.setter
    def pattern(self, pattern: Pattern | None) -> None:
        if pattern is not None and not isinstance(pattern, Pattern):
            raise TypeError(
                f"pattern is a {type(pattern).__name__}, expected a pattern such as Causal(); "
                "a tensor goes to attn_mask="
            )
        if self.appended_keys > 0 and not isinstance(pattern, (Dense, type(None))):
            raise ValueError(f"pattern is {pattern} with add_bias_kv or add_zero_attn, {_NO_POSITION}")
        self._pattern = pattern
        self._causal_pattern = Causal() if pattern is None else pattern & Causal()
        self._pattern_text, self._pattern_layout = (Dense() if pattern is None else pattern).encode()
        self._causal_text, _ = self._causal_pattern.encode()

    @property
    def _qkv_same_embed_dim(self) -> bool:
        # A scripted TransformerEncoderLayer sees no hooks, but it asks this before its fast path.
        if torch.jit.is_scripting():
            return False
        return self._packed_projection

    @_qkv_same_embed_dim.setter
    def _qkv_same_embed_dim(self, same: bool) -> None:
        self._packed_projection = same

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # Torch's layer adds it for old pickles; there TorchScript would find it before the property.
        self.__dict__.pop("_qkv_same_embed_dim", None)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Arguments and results of ``torch.nn.MultiheadAttention.forward``.

        Args:
            query: (L, N, embed_dim), (N, L, embed_dim) with batch_first, or unbatched (L, embed_dim); or,
                with batch_first, a strided nested tensor that is key and value too, without masks.
            key: (S, N, kdim), (N, S, kdim) or (S, kdim).
            value: (S, N, vdim), (N, S, vdim) or (S, vdim).
            key_padding_mask: (N, S) or (S,); True hides, a float mask is added to the scores.
            need_weights: return the probabilities too; see the class about what that costs.
            attn_mask: (L, S) or (N * num_heads, L, S); True hides, a float mask is added and gets a gradient.
            average_attn_weights: the mean over the heads instead of all.
            is_causal: says that attn_mask, which must be given, is the causal mask. As in torch, the mask is
                then not read unless weights or a key_padding_mask need it.

        Returns:
            attn_output, of the query's shape, and None or the probabilities (after dropout): (N, L, S), or
            (N, num_heads, L, S) without averaging; no N for unbatched inputs.

        Raises:
            ValueError, TypeError: an input that does not fit.
            RuntimeError: is_causal without attn_mask.
        """
        if not torch.jit.is_scripting():
            weight = self.q_proj_weight if self.in_proj_weight is None else self.in_proj_weight
            check_operands(query, key, value, key_padding_mask, attn_mask, weight)
        if is_causal and attn_mask is None:
            raise RuntimeError(
                "is_causal is True and attn_mask is None, expected the causal mask that the hint is about "
                "(or construct the layer with pattern=Causal())"
            )
        if query.is_nested or key.is_nested or value.is_nested:
            same = query is key and key is value
            if not (same and self.batch_first and key_padding_mask is None and attn_mask is None):
                raise ValueError(
                    "query, key or value is a nested tensor, expected one tensor as all three, "
                    "batch_first=True, and neither key_padding_mask nor attn_mask"
                )
            return self._forward_nested(query, need_weights, average_attn_weights)
        return self._forward_dense(
            query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
        )

    def _forward_nested(
        self, query: Tensor, need_weights: bool, average_attn_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Self-attention of sequences of several lengths: as a padded batch whose padding is hidden."""
        if not torch.jit.is_scripting() and query.layout != torch.strided:
            raise TypeError(f"query is a nested tensor of layout {query.layout}, expected torch.strided")
        padded = query.to_padded_tensor(0.0)  # (N, L, E)
        lengths = query._nested_tensor_size()[:, 0].to(padded.device)
        padding = torch.arange(padded.size(1), device=padded.device) >= lengths[:, None]  # (N, L)
        out, weights = self._forward_dense(
            padded, padded, padded, padding, need_weights, None, average_attn_weights, False
        )
        if weights is not None:
            rows = padding[:, :, None] if average_attn_weights else padding[:, None, :, None]
            weights = weights.masked_fill(rows, 0.0)
        return torch._nested_tensor_from_mask(
            out.contiguous(), padding.logical_not(), mask_check=False
        ), weights

    def _forward_dense(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None,
        need_weights: bool,
        attn_mask: Tensor | None,
        average_attn_weights: bool,
        is_causal: bool,
    ) -> tuple[Tensor, Tensor | None]:
        batch, query_length, key_length = check_shapes(
            query,
            key,
            value,
            key_padding_mask,
            attn_mask,
            self.embed_dim,
            self.kdim,
            self.vdim,
            self.num_heads,
            self.batch_first,
        )
        weights = (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        q, k, v = project(query, key, value, weights, self.in_proj_bias, self.num_heads, self.batch_first)
        k = append_keys(k, self.bias_k, self.add_zero_attn)
        v = append_keys(v, self.bias_v, self.add_zero_attn)

        # The hint counts positions from the first query and key, patterns and tables from the last.
        aligned = query_length == key_length or (self._pattern_text == "dense" and self.relative is None)
        causal = is_causal and aligned and key_padding_mask is None and not need_weights
        mask, padding = translate_masks(
            key_padding_mask, None if causal else attn_mask, batch, self.num_heads, self.appended_keys
        )
        dropout_p = self.dropout if self.training else 0.0
        if not need_weights:
            out = self._attend(q, k, v, mask, padding, causal, dropout_p)
            return self.out_proj(merge_heads(out, query.dim() == 3, self.batch_first)), None
        out, probabilities = self._attend_with_weights(q, k, v, mask, padding, dropout_p)
        if average_attn_weights:
            probabilities = probabilities.mean(1)
        if query.dim() == 2:
            probabilities = probabilities[0]
        return self.out_proj(merge_heads(out, query.dim() == 3, self.batch_first)), probabilities

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        padding: Tensor | None,
        causal: bool,
        dropout_p: float,
    ) -> Tensor:
        """The fused way: (N, H, L, D)."""
        offset = 0 if causal else key.size(2) - query.size(2)
        segments: tuple[Tensor, Tensor] | None = None
        if padding is not None:  # hidden keys are a segment without queries: their tiles are skipped
            queries = torch.zeros(query.size(0), query.size(2), dtype=torch.int64, device=query.device)
            segments = (queries, padding.to(torch.int64))
        if torch.jit.is_scripting():
            relative_key, relative_value, relative_bias, slopes = self._scripted_tables()
            return scripted_attention(
                query,
                key,
                value,
                self._causal_text if causal else self._pattern_text,
                self._pattern_layout,
                relative_key,
                relative_value,
                relative_bias,
                slopes,
                mask,
                segments,
                dropout_p,
                offset,
            )
        else:
            return attention(
                query,
                key,
                value,
                pattern=self._causal_pattern if causal else self._pattern,
                relative=None if self.relative is None else self.relative(),
                mask=mask,
                segment_ids=segments,
                dropout_p=dropout_p,
                query_offset=offset,
            )

    def _attend_with_weights(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        padding: Tensor | None,
        dropout_p: float,
    ) -> tuple[Tensor, Tensor]:
        """In plain torch: (N, H, L, D) and the probabilities (N, H, L, S) after dropout."""
        lengths = (query.size(2), key.size(2))
        visible: Tensor | None = None
        if torch.jit.is_scripting():
            relative_key, relative_value, relative_bias, slopes = self._scripted_tables()
            if self._pattern_text != "dense":
                visible = scripted_visibility(
                    self._pattern_text,
                    self._pattern_layout,
                    self.num_heads,
                    lengths[0],
                    lengths[1],
                    query.device,
                )
        else:
            relative = None if self.relative is None else self.relative()
            checked = normalise(query, key, value, pattern=self._pattern, relative=relative, mask=mask)
            query, key, value, mask = checked.query, checked.key, checked.value, checked.mask
            relative_key, relative_value = checked.relative_key, checked.relative_value
            relative_bias, slopes = checked.relative_bias, checked.slopes
            if self._pattern is not None:
                queries, keys = (torch.arange(length, device=query.device) for length in lengths)
                visible = self._pattern.element_mask(queries, keys, checked.query_offset)
        if padding is not None:
            shown = padding.logical_not()[:, None, None]
            visible = shown if visible is None else visible & shown
        weights = attention_weights(query, key, visible, mask, relative_key, relative_bias, slopes)
        weights = dropped(weights, dropout_p)
        return weighted_values(weights, value, relative_value), weights

    def _scripted_tables(self) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        if self.relative is not None:
            return self.relative.tables()
        return None, None, None, None

    def extra_repr(self) -> str:
        return "" if self._pattern is None else f"pattern={self._pattern}"
