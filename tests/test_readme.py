"""What the README shows runs, its table holds the committed results, its folders and commands exist."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from seo_kernels.benchmark.cases import cases
from seo_kernels.cli.app import main

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
# what each prints: its beginning, and something within
PRINTED = [
    ("torch.Size([8, 257])\n", " serves\n"),
    ("adapter 'default' on 2 layers; ", "\ntorch.Size([512, 128]) torch.Size([512, 64])\n"),
    ("['grad_norm', 'learning_rate', 'loss', 'skipped']\n", ""),
    ("16\n", ""),
    ("[]\n[", "]\nTrue\n"),
]


@pytest.fixture
def readme_table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme_table", ROOT / "benchmarks" / "readme_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("example", "expected"), list(zip(EXAMPLES, PRINTED, strict=True)), ids=range(len(EXAMPLES))
)
def test_examples_run(example: str, expected: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    beginning, within = expected
    assert printed.startswith(beginning)
    assert within in printed


def test_there_is_an_example() -> None:
    assert EXAMPLES


def test_the_table_holds_the_committed_results(readme_table: ModuleType) -> None:
    """Else: ``.venv/bin/python benchmarks/readme_table.py``."""
    assert readme_table.section(TEXT) == readme_table.render(readme_table.load_results())


def test_the_table_has_a_row_per_floor(readme_table: ModuleType) -> None:
    rows = readme_table.render([]).splitlines()[2:]
    floors = sum(
        len(case.peers)
        + sum(floor is not None for floor in (case.share_floor, case.copy_floor, case.memory_floor))
        for case in cases()
    )
    assert len(rows) == floors


def test_results_go_into_the_table(readme_table: ModuleType) -> None:
    environment = {
        "cpu_model": "Abacus (R)",
        "cpu_capability": "avx2",
        "threads": 3,
        "torch": "9.9",
        "seo_kernels": "8.8",
        "date": "2001-01-01",
    }
    results = {
        "environment": environment,
        "cases": [
            {
                "case": "dense-fp32-fwd",
                "memory_ratio": None,
                "contenders": [
                    {"contender": "seo_kernels", "share_of_peak": 0.814, "measured": None},
                    {"contender": "SDPA", "share_of_peak": 0.3, "measured": "2.51 x"},
                ],
            },
            {"case": "local-long-fp32-fwd-bwd", "memory_ratio": 1.234, "contenders": []},
        ],
    }
    other = {"environment": environment | {"cpu_model": "Babbage"}, "cases": []}
    table = readme_table.render([results, other])
    assert table.startswith("| case | beside | floor | Abacus | Babbage |\n")
    assert "| dense fp32 forward | SDPA | at least 2.2 x | 2.51 x | - |" in table
    assert "| dense fp32 forward | measured multiply-add peak | at least 70 % | 81 % | - |" in table
    assert "| the tensors themselves | at most 2 x | 1.23 x | - |" in table
    assert "\nAbacus: Abacus (R) (avx2), 3 threads, torch 9.9, seo_kernels 8.8, 2001-01-01.  \n" in table


def test_folders_and_commands_exist(capsys: pytest.CaptureFixture[str]) -> None:
    folders = re.findall(r"`((?:seo_kernels|csrc|tests|benchmarks)/[a-z/]*)`", TEXT)
    assert "csrc/semantics/" in folders
    # results come with the first `make bench`
    assert [f for f in folders if not (ROOT / f).is_dir() and f != "benchmarks/results/"] == []
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"(?:^|`)make ([a-z-]+)", TEXT, flags=re.MULTILINE)
    assert {"demo", "test", "bench", "lint"} <= set(targets)
    assert [target for target in targets if not re.search(rf"^{target}\b.*:", makefile, re.MULTILINE)] == []
    for command in re.findall(r"python -m seo_kernels (\w+)", TEXT):
        assert main([command, "--help"]) == 0


def test_it_is_short(readme_table: ModuleType) -> None:
    """Without the figures, which grow with the cases."""
    assert len(TEXT.replace(readme_table.section(TEXT), "").splitlines()) < 200
