"""The text that the demo learns: files and folders, or the language reference inside CPython."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seo_kernels._extras import require

PLAIN = (".txt", ".md")
HTML = (".html", ".htm")
READABLE = (*PLAIN, *HTML)
HELD_OUT_SHARE = 0.1


@dataclass(frozen=True)
class Corpus:
    """UTF-8 bytes to learn from, and bytes never trained on: the last tenth of the text."""

    source: str
    train: bytes
    held_out: bytes

    @property
    def fingerprint(self) -> str:
        """Equal for equal text."""
        return hashlib.sha256(self.train + b"\0" + self.held_out).hexdigest()


def load_corpus(paths: Sequence[Path], least_bytes: int) -> Corpus:
    """Read ``paths`` (by default CPython's language reference), drop repeated paragraphs, and split.

    Pages quote each other: otherwise the held-out tail would hold paragraphs that were trained on.

    Raises:
        FileNotFoundError: a path that does not exist.
        ValueError: a file of another kind, a folder without text, or fewer than ``least_bytes`` bytes.
        MissingExtraError: .html without the extra that reads it.
    """
    files = [file for path in paths for file in text_files(path)]
    texts = [read_text(file) for file in files] if paths else _language_reference()
    text = _drop_repeated_paragraphs(texts).encode()
    if len(text) < least_bytes:
        raise ValueError(
            f"the text has {len(text)} bytes without repeated paragraphs, expected {least_bytes} or more"
        )
    cut = len(text) - int(len(text) * HELD_OUT_SHARE)
    paragraph = text.rfind(b"\n\n", 0, cut) + 2
    if cut - paragraph < len(text) // 20:  # not so in one endless paragraph
        cut = paragraph
    source = ", ".join(map(str, paths)) if paths else "the Python language reference (pydoc_data.topics)"
    return Corpus(source, train=text[:cut], held_out=text[cut:])


def _language_reference() -> list[str]:
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


def text_files(path: Path) -> list[Path]:
    """The readable files of a folder, in order, or the one file that path names.

    Raises:
        FileNotFoundError: a path that does not exist.
        ValueError: a file of another kind, or a folder without text.
    """
    expected = f"expected a folder or a file that ends in {', '.join(READABLE)}"
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in READABLE and file.is_file())
        if not files:
            raise ValueError(
                f"folder {str(path)!r} holds no text, {expected.replace('a folder', 'a folder with text')}"
            )
        return files
    if not path.exists():
        raise FileNotFoundError(f"there is no {str(path)!r}, {expected}")
    if path.suffix.lower() not in READABLE:
        raise ValueError(f"{str(path)!r} ends in {path.suffix or 'nothing'!r}, {expected}")
    return [path]


def read_text(file: Path) -> str:
    """What a file says; of a page, without tags and scripts.

    Raises:
        MissingExtraError: .html without the extra that reads it.
    """
    text = file.read_text(encoding="utf-8", errors="replace")
    if file.suffix.lower() not in HTML:
        return text
    page = require("bs4", extra="html", purpose="read .html files").BeautifulSoup(text, "html.parser")
    for element in page(["script", "style", "template"]):
        element.decompose()
    return "\n".join(line for line in page.get_text("\n").splitlines() if line.strip())


def _drop_repeated_paragraphs(texts: Sequence[str]) -> str:
    seen: set[str] = set()
    kept = []
    for text in texts:
        for paragraph in text.split("\n\n"):
            words = " ".join(paragraph.split())
            if words and words not in seen:
                seen.add(words)
                kept.append(paragraph.strip("\n"))
    return "\n\n".join(kept)
