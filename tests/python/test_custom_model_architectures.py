"""The documented import names: all there, thin, and installed with the package."""

import ast
from pathlib import Path

import custom_model_architectures
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
MODULES = sorted((ROOT / "python").glob("*.py"))
DOCUMENTED = [
    "PositionalEncoding",
    "MultiHeadAttentionWithRelativePosition",
    "TransformerBlock",
    "CustomTransformer",
    "Conv1DBlock",
    "CNNFeatureExtractor",
    "LSTMWithAttention",
    "DotProductAttention",
    "GeneralAttention",
    "ConcatAttention",
    "CNNLSTMHybrid",
    "TransformerCNN",
    "MultiTaskModel",
    "HierarchicalAttentionNetwork",
    "ResidualBlock",
    "DeepResidualCNN",
    "ModelFactory",
    "MODEL_CONFIGS",
    "CustomTransformerModel",
    "CustomCNNModel",
    "CustomRNNModel",
]


def test_every_documented_name() -> None:
    assert sorted(custom_model_architectures.__all__) == sorted(DOCUMENTED)
    assert all(hasattr(custom_model_architectures, name) for name in DOCUMENTED)
    assert all(getattr(custom_model_architectures, name).__doc__ for name in DOCUMENTED)


@pytest.mark.parametrize(
    "path", [path for path in MODULES if not path.stem.startswith("example_")], ids=lambda path: path.stem
)
def test_documented_modules_only_pass_names_on(path: Path) -> None:
    body = ast.parse(path.read_text()).body
    assert isinstance(body[0], ast.Expr)  # the docstring
    for node in body[1:]:
        assigned = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        run = isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        assert isinstance(node, ast.ImportFrom) or assigned or run, ast.unparse(node)


def test_documented_modules_are_packaged() -> None:
    """That they import where the package is installed: tests/test_packaging.py."""
    settings = (ROOT / "pyproject.toml").read_text()
    listed = settings.partition("py-modules = ")[2].partition("]")[0] + "]"
    assert sorted(ast.literal_eval(listed)) == [path.stem for path in MODULES]
