"""What ``apply`` and ``load`` did to a model."""

from dataclasses import dataclass

from torch import nn

from seo_kernels.nn.lora import LoRALinear


@dataclass(frozen=True)
class AdaptedLayer:
    """One layer with the new adapter. ``path`` is its name in the model, ``kind`` what it was before."""

    path: str
    kind: str
    in_features: int
    out_features: int
    rank: int


@dataclass(frozen=True)
class Report:
    """The layers that got an adapter, and what else changed. ``str()`` of it is for people.

    Attributes:
        adapter: the adapter's name.
        layers: what got it, in the model's order.
        replaced_parents: paths of torch attention layers that became ``sk.nn.MultiheadAttention``, because
            they would have read the weight of a layer inside and left out its adapter.
        tied: paths of the layers whose weight another module shares.
        trainable_parameters, parameters: of the whole model.
    """

    adapter: str
    layers: tuple[AdaptedLayer, ...]
    replaced_parents: tuple[str, ...]
    tied: tuple[str, ...]
    trainable_parameters: int
    parameters: int

    def __len__(self) -> int:
        return len(self.layers)

    def __str__(self) -> str:
        share = self.trainable_parameters / max(self.parameters, 1)
        lines = [
            f"adapter {self.adapter!r} on {len(self.layers)} layers; {self.trainable_parameters:,} of "
            f"{self.parameters:,} parameters ({share:.2%}) are trained"
        ]
        for layer in self.layers:
            size = f"{layer.in_features} -> {layer.out_features}"
            lines.append(f"  {layer.path}: {layer.kind} {size}, rank {layer.rank}")
        for path in self.replaced_parents:
            lines.append(f"  {path}: torch.nn.MultiheadAttention became seo_kernels.nn.MultiheadAttention")
        for path in self.tied:
            lines.append(f"  {path}: another module shares its weight")
        return "\n".join(lines)


def make_report(
    model: nn.Module,
    adapter: str,
    kinds: dict[str, str],
    layers: dict[str, LoRALinear],
    replaced_parents: list[str],
    tied: list[str],
) -> Report:
    """Read a report off the model; ``kinds`` and ``layers`` by path."""
    entries = []
    for path, layer in layers.items():
        rank = layer.adapters[adapter].rank
        assert isinstance(rank, int)
        entries.append(AdaptedLayer(path, kinds[path], layer.in_features, layer.out_features, rank))
    parameters = list(model.parameters())
    return Report(
        adapter=adapter,
        layers=tuple(entries),
        replaced_parents=tuple(replaced_parents),
        tied=tuple(tied),
        trainable_parameters=sum(p.numel() for p in parameters if p.requires_grad),
        parameters=sum(p.numel() for p in parameters),
    )
