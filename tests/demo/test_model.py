import pytest
import torch
from torch import Tensor

from seo_kernels.demo.engines import fused, masked_sdpa
from seo_kernels.demo.model import Attend, ByteModel, ModelConfig
from seo_kernels.relative import RelativePosition

CONFIG = ModelConfig(width=24, layers=2, heads=3, window=5)


def random_model(config: ModelConfig = CONFIG) -> ByteModel:
    """Nothing at zero: at the start the blocks and the tables contribute nothing."""
    model = ByteModel(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model


@pytest.mark.parametrize(("length", "window"), [(9, 3), (5, 8), (6, 6), (1, 2), (70, 16)])
def test_both_engines_compute_the_same_function(length: int, window: int) -> None:
    operands = [torch.randn(2, 3, length, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    tables = [
        torch.randn(3, 2 * window + 1, 4, dtype=torch.float64, requires_grad=True),
        torch.randn(3, 2 * window + 1, dtype=torch.float64, requires_grad=True),
    ]
    weights = torch.randn(2, 3, length, 4, dtype=torch.float64)

    def run(engine: Attend) -> tuple[Tensor, ...]:
        out = engine(*operands, RelativePosition(key=tables[0], bias=tables[1]), window)
        return out, *torch.autograd.grad(out, [*operands, *tables], weights)

    for ours, peers in zip(run(fused), run(masked_sdpa), strict=True):
        torch.testing.assert_close(ours, peers)


@torch.no_grad()
def test_a_byte_depends_on_what_stands_before_it_and_within_reach() -> None:
    model = random_model()
    tokens = torch.randint(256, (1, 40))
    logits, _ = model(tokens, fused)
    changed = tokens.clone()
    changed[0, 20] = (tokens[0, 20] + 1) % 256
    different = (model(changed, fused)[0] != logits).any(-1)[0]
    assert different.nonzero().flatten().tolist() == list(range(20, 20 + CONFIG.reach + 1))


@torch.no_grad()
def test_continuing_with_caches_equals_one_call() -> None:
    model = random_model()
    tokens = torch.randint(256, (2, 40))
    expected, _ = model(tokens, fused)
    pieces = []
    caches = None
    for piece in tokens.split([11, 1, 1, 7, 1, 19], dim=1):
        logits, caches = model(piece, fused, caches)
        assert all(key.shape[2] <= CONFIG.window for key, _ in caches)
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected)


def test_an_untrained_model_knows_nothing() -> None:
    tokens = torch.randint(256, (1, 30))
    loss = ByteModel(CONFIG).loss(tokens, fused)
    torch.testing.assert_close(loss, torch.tensor(256.0).log())


def test_impossible_sizes() -> None:
    with pytest.raises(ValueError, match="heads is 5, expected a divisor of width=24"):
        ModelConfig(width=24, heads=5)
    with pytest.raises(ValueError, match="window is 0, expected a positive number"):
        ModelConfig(window=0)
