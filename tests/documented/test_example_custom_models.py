"""Section 1.4: example_custom_models, a runnable demonstration."""

import runpy

import example_custom_models
import pytest


@pytest.mark.slow
def test_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(example_custom_models.__file__, run_name="__main__")
    assert capsys.readouterr().out.strip()
