from pathlib import Path

import pytest

from seo_kernels._extras import MissingExtraError
from seo_kernels.demo.corpus import load_corpus

PARAGRAPHS = [f"This is paragraph number {number}, and it is like no other." for number in range(40)]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_the_language_reference_is_the_default() -> None:
    corpus = load_corpus([], least_bytes=200_000)
    assert b"statement" in corpus.train
    assert 0.05 < len(corpus.held_out) / len(corpus.train) < 0.15


def test_a_folder_is_read_in_order_and_other_files_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "b" / "second.md", "\n\n".join(PARAGRAPHS[20:]))
    write(tmp_path / "a" / "first.txt", "\n\n".join(PARAGRAPHS[:20]))
    write(tmp_path / "a" / "table.csv", "1,2,3")
    corpus = load_corpus([tmp_path], least_bytes=100)
    assert (corpus.train + corpus.held_out).decode() == "\n\n".join(PARAGRAPHS)


def test_held_out_text_begins_with_a_paragraph_and_repeats_none(tmp_path: Path) -> None:
    repeated = PARAGRAPHS + [paragraph.replace(" is ", "  is\n") for paragraph in PARAGRAPHS[:30]]
    corpus = load_corpus([write(tmp_path / "text.txt", "\n\n".join(repeated))], least_bytes=100)
    assert (corpus.train + corpus.held_out).decode() == "\n\n".join(PARAGRAPHS)
    assert corpus.held_out.startswith(b"This is paragraph")


def test_tags_and_scripts_of_html_are_dropped(tmp_path: Path) -> None:
    pytest.importorskip("bs4")
    body = "".join(f"<p>{paragraph} <b>5 &lt; 6</b></p>" for paragraph in PARAGRAPHS)
    page = f"<html><head><style>p {{}}</style><script>track()</script></head><body>{body}</body></html>"
    corpus = load_corpus([write(tmp_path / "page.html", page)], least_bytes=100)
    text = (corpus.train + corpus.held_out).decode()
    assert "5 < 6" in text
    assert not any(unwanted in text for unwanted in ("<p>", "track", "{}"))


def test_html_without_its_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bs4", None)
    with pytest.raises(MissingExtraError, match=r"seo_kernels\[html\]"):
        load_corpus([write(tmp_path / "page.html", "<p>text</p>")], least_bytes=1)


def test_equal_text_has_an_equal_fingerprint(tmp_path: Path) -> None:
    first = load_corpus([write(tmp_path / "a.txt", "\n\n".join(PARAGRAPHS))], least_bytes=1)
    again = load_corpus([write(tmp_path / "b.txt", "\n\n".join(PARAGRAPHS))], least_bytes=1)
    other = load_corpus([write(tmp_path / "c.txt", "\n\n".join(PARAGRAPHS[1:]))], least_bytes=1)
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_bad_paths(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no .*missing.txt"):
        load_corpus([tmp_path / "missing.txt"], least_bytes=1)
    with pytest.raises(ValueError, match=r"ends in '.csv', expected .*\.txt"):
        load_corpus([write(tmp_path / "table.csv", "1,2")], least_bytes=1)
    with pytest.raises(ValueError, match="holds no text"):
        load_corpus([tmp_path], least_bytes=1)
    with pytest.raises(ValueError, match=r"has 4 bytes .*, expected 100 or more"):
        load_corpus([write(tmp_path / "short.txt", "text")], least_bytes=100)
