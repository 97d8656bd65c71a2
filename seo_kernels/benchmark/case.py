"""A case: what is measured beside what, and the floors that its figures have to reach."""

from __future__ import annotations

from dataclasses import dataclass

from seo_kernels.benchmark.problem import Engine, Problem

OURS = "seo_kernels"


@dataclass(frozen=True)
class Floor:
    """At least ``amount`` times as fast as the peer, or, ``of_time``, at most ``amount`` times its time; or,
    ``of_rate``, at least ``amount`` times its multiply-adds per second, where the problems differ.
    """

    text: str
    amount: float
    of_time: bool = False
    of_rate: bool = False

    @property
    def speedup(self) -> float:
        """What the peer's time over ours has to reach, or our rate over the peer's."""
        return 1 / self.amount if self.of_time else self.amount

    def describe(self, speedup: float) -> str:
        """A measured speedup in the words of the floor."""
        return f"{1 / speedup:.3g} x time" if self.of_time else f"{speedup:.3g} x{' rate' * self.of_rate}"


@dataclass(frozen=True)
class MemoryFloor:
    """Peak memory is at most ``amount`` times that of the tensors that go in and come out; or, with ``peer``,
    what it takes beyond them is at most ``amount`` times what that peer of the case takes beyond them.
    """

    amount: float
    peer: str | None = None

    @property
    def text(self) -> str:
        return f"at most {self.amount:g} x"

    @property
    def subject(self) -> str:
        return "peak memory" if self.peer is None else "memory beyond inputs and results"

    @property
    def beside(self) -> str:
        return "the tensors themselves" if self.peer is None else self.peer


@dataclass(frozen=True)
class Peer:
    """What runs in turn with ours; on the problem of the case, unless it has its own."""

    name: str
    engine: Engine
    floor: Floor
    problem: Problem | None = None


@dataclass(frozen=True)
class Case:
    """``engine`` is ours. Floors of shares: of the multiply-add peak, and of the copy bandwidth.

    ``device``: the type of device that it runs on.
    """

    name: str
    title: str
    problem: Problem
    engine: Engine
    peers: tuple[Peer, ...]
    share_floor: float | None = None
    copy_floor: float | None = None
    memory_floor: MemoryFloor | None = None
    device: str = "cpu"

    def peer(self, name: str) -> Peer:
        (peer,) = (peer for peer in self.peers if peer.name == name)
        return peer


def no_slower() -> Floor:
    return Floor("no slower", 1.0)


def beside() -> Floor:
    """Measured, with nothing asked of it."""
    return Floor("none", 0.0)


def faster(amount: float) -> Floor:
    return Floor(f"at least {amount:g} x", amount)


def within(amount: float) -> Floor:
    return Floor(f"at most {amount:g} x time", amount, of_time=True)


def at_rate(amount: float) -> Floor:
    return Floor(f"at least {amount:g} x rate", amount, of_rate=True)
