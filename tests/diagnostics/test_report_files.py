"""Files are whole or not there."""

import json
import math
import os
from pathlib import Path

import pytest
import torch

from seo_kernels.diagnostics.report_files import json_text, replacing, write_atomically


def test_text_and_bytes_are_written(tmp_path: Path) -> None:
    path = tmp_path / "report.txt"
    assert write_atomically(path, "gradient: ∂\n") == path
    assert path.read_bytes() == "gradient: ∂\n".encode()
    write_atomically(str(path), b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert os.listdir(tmp_path) == ["report.txt"]


def test_an_interrupted_write_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "report.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:  # noqa: PT012
        file.write(b"half of the ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.txt"]


def test_a_reader_never_sees_half(tmp_path: Path) -> None:
    path = tmp_path / "report.txt"
    path.write_text("old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_a_failing_disk_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.txt"
    path.write_text("old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OSError, match=r"path is .*report\.txt, expected a file that can be written: No space"
    ):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.txt"]


def test_permissions_are_those_of_any_file(tmp_path: Path) -> None:
    plain, ours = tmp_path / "plain", tmp_path / "ours"
    plain.write_text("")
    write_atomically(ours, "")
    assert ours.stat().st_mode == plain.stat().st_mode
    plain.chmod(0o640)
    write_atomically(plain, "new")
    assert plain.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["missing/report.txt", "file/report.txt", "."])
def test_paths_that_cannot_be_written_are_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match=r"path is .*, expected a file that can be written") as caught:
        write_atomically(tmp_path / name, "text")
    assert str(tmp_path / name) in str(caught.value)


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="content is a list, expected str or bytes"):
        write_atomically(tmp_path / "report", [])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="path is an int"):
        write_atomically(3, "text")  # type: ignore[arg-type]


def test_json_loses_no_number() -> None:
    value = {"a": [math.nan, math.inf, -math.inf, 0.5], "b": torch.tensor([1.0, math.nan]), "c": Path("x")}
    assert json.loads(json_text(value)) == {"a": ["NaN", "Inf", "-Inf", 0.5], "b": [1.0, "NaN"], "c": "x"}
