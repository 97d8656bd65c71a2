"""Texts with labels: folders of pages, a folder a class, or paragraphs of CPython's language reference."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seo_kernels.demo.corpus import read_text, text_files

HELD_OUT_SHARE = 0.2
LEAST_SAMPLES = 5  # of each class
LEAST_WORDS = 8  # of a paragraph of the reference

# a running Python has more topics or fewer; some are parts of others
TOPIC_GROUPS = {
    "statements": "assert assignment async augassign break class compound continue del else for function "
    "global if import nonlocal pass raise return try while with",
    "expressions": "atom-identifiers atom-literals attribute-references await binary bitwise booleans calls "
    "comparisons conversions dict exprlists in lambda lists operator-summary power shifting slicings "
    "subscriptions unary yield",
    "data model": "attribute-access callable-types context-managers customization numeric-types "
    "objects sequence-types specialnames types",
    "built-in types": "bltin-code-objects bltin-ellipsis-object bltin-null-object bltin-type-objects "
    "specialattrs string-methods truth typesfunctions typesmapping typesmethods typesmodules typesseq "
    "typesseq-mutable",
    "lexical analysis": "floating id-classes identifiers imaginary integers numbers strings",
    "execution model": "dynamic-features exceptions execmodel naming",
    "format strings": "formatstrings",
    "debugger": "debugger",
}


@dataclass(frozen=True)
class Sample:
    """A text and the number of its class."""

    text: str
    label: int


@dataclass(frozen=True)
class Labelled:
    """Samples to learn from and samples that are held out, a share of each class."""

    source: str
    classes: list[str]
    train: list[Sample]
    held_out: list[Sample]

    @property
    def majority(self) -> float:
        """Held-out accuracy of the most frequent class."""
        counts = Counter(sample.label for sample in self.held_out)
        return max(counts.values()) / len(self.held_out)


def load_labelled(paths: Sequence[Path], seed: int) -> Labelled:
    """Read ``paths``, a folder a class, each page a sample; by default paragraphs of the language reference.

    Texts that stand there twice are taken once, and not at all if they belong to two classes.

    Raises:
        FileNotFoundError: a path that does not exist.
        ValueError: no folder, only one, two of one name, or one with fewer than ``LEAST_SAMPLES`` texts.
        MissingExtraError: .html without the extra that reads it.
    """
    texts = _pages(paths) if paths else _reference()
    labels: dict[str, set[int]] = {}
    first: dict[str, str] = {}
    for label, name in enumerate(texts):
        for text in texts[name]:
            words = " ".join(text.split())
            labels.setdefault(words, set()).add(label)
            first.setdefault(words, text)
    samples: list[list[Sample]] = [[] for _ in texts]
    for words, found in labels.items():
        if words and len(found) == 1:
            (label,) = found
            samples[label].append(Sample(first[words], label))
    for name, of_class in zip(texts, samples, strict=True):
        if len(of_class) < LEAST_SAMPLES:
            raise ValueError(
                f"{name!r} has {len(of_class)} texts of its own, expected {LEAST_SAMPLES} or more a class"
            )
    source = ", ".join(map(str, paths)) if paths else "the Python language reference (pydoc_data.topics)"
    return _split(source, list(texts), samples, random.Random(seed))


def readability(text: str) -> float:
    """How hard a text is to read: the Automated Readability Index (Senter & Smith 1967), higher is harder.

    >>> round(readability("The cat sat on the mat."), 2)
    -5.09
    """
    words = re.findall(r"\w+", text)
    sentences = max(1, len(re.findall(r"[.!?:](?=\s|$)", text)))
    letters = sum(map(len, words))
    return 4.71 * letters / max(1, len(words)) + 0.5 * len(words) / sentences - 21.43


def _split(source: str, classes: list[str], samples: list[list[Sample]], draw: random.Random) -> Labelled:
    train, held_out = [], []
    for of_class in samples:
        draw.shuffle(of_class)
        cut = max(1, round(len(of_class) * HELD_OUT_SHARE))
        held_out += of_class[:cut]
        train += of_class[cut:]
    return Labelled(source, classes, train, held_out)


def _pages(folders: Sequence[Path]) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for folder in folders:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{str(folder)!r} is a file, expected a folder of pages for each class")
        name = folder.resolve().name
        if name in texts:
            raise ValueError(f"two folders are called {name!r}, expected a name for each class")
        texts[name] = [read_text(file) for file in text_files(folder)]
    if len(texts) < 2:
        raise ValueError(f"the one folder given is {str(folders[0])!r}, expected one for each class")
    return texts


def _reference() -> dict[str, list[str]]:
    from pydoc_data.topics import topics

    return {
        group: [
            paragraph
            for name in names.split()
            for paragraph in topics.get(name, "").split("\n\n")
            if len(paragraph.split()) >= LEAST_WORDS
        ]
        for group, names in TOPIC_GROUPS.items()
    }
