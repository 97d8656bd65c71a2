import json

import pytest

import seo_kernels as sk
from seo_kernels.cli.app import main


def test_table_names_every_fact(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    output = capsys.readouterr().out
    assert all(name.replace("_", " ") in output for name in sk.info())
    assert sk.__version__ in output


def test_json_is_what_info_returns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(sk.info(), default=str))
