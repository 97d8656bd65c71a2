"""Sections are timed by name, inside each other too; operators are recorded where they are asked for."""

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from seo_kernels.diagnostics import autograd_profiler
from seo_kernels.diagnostics.autograd_profiler import AutogradProfiler


class Clock:
    """Stands in for ``time``: moves only when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(autograd_profiler, "time", clock)
    return clock


def test_durations_by_section(clock: Clock) -> None:
    profiler = AutogradProfiler()
    with profiler.profile_autograd("epoch"):
        for seconds in (1.0, 2.0, 6.0):
            with profiler.profile_autograd("step"):
                clock.now += seconds
        clock.now += 3.0
    summary = profiler.get_profile_summary()
    step, epoch = summary["sections"]["step"], summary["sections"]["epoch"]
    expected = {
        "count": 3,
        "total_duration": 9.0,
        "avg_duration": 3.0,
        "min_duration": 1.0,
        "max_duration": 6.0,
    }
    assert {name: step[name] for name in expected} == expected
    assert (epoch["count"], epoch["total_duration"]) == (1, 12.0)
    assert (summary["count"], summary["total_duration"], summary["avg_duration"]) == (4, 21.0, 5.25)
    json.dumps(summary)


def test_before_the_first_section_everything_is_zero() -> None:
    expected = {"avg_duration": 0.0, "total_duration": 0.0, "count": 0, "sections": {}}
    profiler = AutogradProfiler()
    assert profiler.get_profile_summary() == expected
    with profiler.profile_autograd("step"):
        pass
    profiler.reset()
    assert profiler.get_profile_summary() == expected


def test_a_section_that_raises_counts(clock: Clock) -> None:
    profiler = AutogradProfiler()
    for trouble in (False, True):
        try:
            with profiler.profile_autograd("step"):
                clock.now += 2.0
                if trouble:
                    raise KeyError("batch")
        except KeyError:
            assert trouble
    section = profiler.get_profile_summary()["sections"]["step"]
    assert (section["count"], section["failed"], section["total_duration"]) == (2, 1, 4.0)


def test_the_clock_is_that_of_the_wall() -> None:
    profiler = AutogradProfiler()
    begin = time.perf_counter()
    with profiler.profile_autograd("wait"):
        time.sleep(0.02)
    assert 0.02 <= profiler.get_profile_summary()["avg_duration"] <= time.perf_counter() - begin


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    used = 1000
    monkeypatch.setattr(autograd_profiler, "memory_use", lambda device: {"process_bytes": used})
    monkeypatch.setattr(autograd_profiler, "_gpu", lambda: None)
    profiler = AutogradProfiler()
    with profiler.profile_autograd("outer"):
        with profiler.profile_autograd("inner"):
            used = 5000
        with profiler.profile_autograd("inner"):
            used = 2000
    sections = profiler.get_profile_summary()["sections"]
    assert sections["inner"]["avg_memory_growth_bytes"] == 500
    assert sections["inner"]["peak_memory_bytes"] == 5000
    assert sections["outer"]["avg_memory_growth_bytes"] == 1000
    assert sections["outer"]["peak_memory_bytes"] == 5000


def train() -> None:
    weight = torch.randn(64, 48, requires_grad=True)
    (torch.randn(32, 64) @ weight).relu().sum().backward()


def test_operators_of_forward_and_backward(tmp_path: Path) -> None:
    profiler = AutogradProfiler(operators=True)
    with profiler.profile_autograd("first"):
        torch.ones(3).sin()
    with profiler.profile_autograd("train"), profiler.profile_autograd("inside"):
        train()
    table = profiler.operator_table()
    assert "aten::mm" in table
    assert "MmBackward0" in table
    assert "inside" in table
    assert "aten::sin" not in table
    assert "aten::sin" in profiler.operator_table("first")
    assert len(profiler.operator_table(rows=2).splitlines()) < len(table.splitlines())
    by_count = profiler.operator_table(sort_by="count", rows=1)
    assert by_count != profiler.operator_table(sort_by="cpu_time_total", rows=1)
    assert "[32, 64]" not in table
    assert "CPU Mem" not in table
    assert profiler.get_profile_summary()["count"] == 3

    path = profiler.export_chrome_trace(tmp_path / "trace.json")
    names = {event.get("name") for event in json.loads(path.read_text())["traceEvents"]}
    assert {"train", "inside", "aten::mm"} <= names
    path = profiler.export_chrome_trace(tmp_path / "first.json.gz", "first")
    names = {event.get("name") for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]}
    assert "aten::sin" in names
    assert "aten::mm" not in names
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.json.gz", "trace.json"]


def test_shapes_memory_and_stacks(tmp_path: Path) -> None:
    profiler = AutogradProfiler(operators=True, record_shapes=True, profile_memory=True, with_stack=True)
    with profiler.profile_autograd("train"):
        train()
    table = profiler.operator_table()
    assert "[32, 64]" in table
    assert "CPU Mem" in table
    assert "test_autograd_profiler.py" in profiler.export_chrome_trace(tmp_path / "trace.json").read_text()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"operators": 1}, TypeError, "operators is an int"),
        ({"synchronize": None}, TypeError, "synchronize is a NoneType"),
        ({"record_shapes": True}, ValueError, "record_shapes is True, expected operators=True"),
        ({"profile_memory": True}, ValueError, "profile_memory is True, expected operators=True"),
        ({"with_stack": True}, ValueError, "with_stack is True, expected operators=True"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        AutogradProfiler(**options)


def test_bad_use(tmp_path: Path) -> None:
    profiler = AutogradProfiler()
    with pytest.raises(TypeError, match="name is an int"), profiler.profile_autograd(3):  # type: ignore[arg-type]
        pass
    with pytest.raises(ValueError, match="name is empty"), profiler.profile_autograd(""):
        pass
    with pytest.raises(RuntimeError, match=r"expected AutogradProfiler\(operators=True\)"):
        profiler.operator_table()
    with profiler.profile_autograd("step"), pytest.raises(RuntimeError, match="reset inside a section"):
        profiler.reset()

    profiler = AutogradProfiler(operators=True)
    with pytest.raises(RuntimeError, match="expected a section before"):
        profiler.operator_table()
    with profiler.profile_autograd("step"):
        pass
    with pytest.raises(ValueError, match="name is 'stop', expected one of the outermost sections: step"):
        profiler.operator_table("stop")
    with pytest.raises(ValueError, match="sort_by is 'time', expected one of count"):
        profiler.operator_table(sort_by="time")
    with pytest.raises(ValueError, match="rows is 0"):
        profiler.operator_table(rows=0)
    with pytest.raises(TypeError, match="rows is a float"):
        profiler.operator_table(rows=2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected one that ends in \.json"):
        profiler.export_chrome_trace(tmp_path / "trace.txt")
    with pytest.raises(OSError, match="expected a file that can be written"):
        profiler.export_chrome_trace(tmp_path / "nowhere" / "trace.json")
