"""The built-in bytes and tokenizers of transformers behind one interface."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training.tokenizers_made_here import word_tokenizer

from seo_kernels._extras import MissingExtraError
from seo_kernels.training import AdvancedTokenizer

BYTES = AdvancedTokenizer("byte", max_length=8)


def test_bytes() -> None:
    coded = BYTES.tokenize_text(["né", "0123456789"])
    assert coded["input_ids"].tolist() == [[110, 195, 169, *[256] * 5], [48 + i for i in range(8)]]
    assert coded["attention_mask"].tolist() == [[1] * 3 + [0] * 5, [1] * 8]
    assert {tensor.dtype for tensor in coded.values()} == {torch.int64}
    assert BYTES.tokenize_text("one")["input_ids"].shape == (1, 8)
    assert (len(BYTES), BYTES.pad_token_id, BYTES.eos_token_id) == (258, 256, 257)


@settings(max_examples=50)
@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_bytes_there_and_back(text: str) -> None:
    tokenizer = AdvancedTokenizer("byte", max_length=4 * len(text))
    assert tokenizer.decode_tokens(tokenizer.tokenize_text(text)["input_ids"]) == [text]
    assert tokenizer.decode_tokens([tokenizer.encode(text)]) == [text]


def test_bytes_need_no_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    AdvancedTokenizer("byte").tokenize_text("text")
    with pytest.raises(MissingExtraError, match=r"load the tokenizer 'gpt2'.*seo_kernels\[models\]"):
        AdvancedTokenizer("gpt2")


def test_padding_to_the_longest() -> None:
    tokenizer = AdvancedTokenizer("byte", max_length=8, padding="longest")
    assert tokenizer.tokenize_text(["a", "abc"])["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]


def test_without_truncation_a_long_text_is_an_error() -> None:
    tokenizer = AdvancedTokenizer("byte", max_length=4, truncation=False)
    with pytest.raises(ValueError, match=r"text\[1\] has 5 tokens, expected at most max_length=4"):
        tokenizer.tokenize_text(["abcd", "abcde"])


def test_a_tokenizer_of_transformers(tmp_path: Path) -> None:
    folder = word_tokenizer(tmp_path, eos_token="</s>", pad_token="<pad>")
    tokenizer = AdvancedTokenizer(folder, max_length=4)
    coded = tokenizer.tokenize_text(["hello world", "the quick fox jumps hello"])
    assert coded["input_ids"].tolist() == [[3, 4, 2, 2], [5, 6, 7, 8]]
    assert coded["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert tokenizer.decode_tokens(coded["input_ids"])[0] == "hello world"
    assert (len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id) == (9, 1, 2)
    assert tokenizer.encode("the quick fox jumps hello") == [5, 6, 7, 8, 3]


def test_a_token_that_pads_is_chosen(tmp_path: Path) -> None:
    ending = AdvancedTokenizer(word_tokenizer(tmp_path / "a", eos_token="</s>"))
    assert (ending.pad_token_id, ending.eos_token_id, len(ending)) == (1, 1, 8)
    neither = AdvancedTokenizer(word_tokenizer(tmp_path / "b"))
    assert (neither.pad_token_id, neither.eos_token_id, len(neither)) == (7, None, 8)


def test_attention_mask(tmp_path: Path) -> None:
    ids = torch.tensor([[1, 3, 1, 4, 1], [1, 1, 1, 1, 1], [3, 4, 5, 6, 7]])
    shared = AdvancedTokenizer(word_tokenizer(tmp_path, eos_token="</s>"), max_length=5)
    expected = [[1, 1, 1, 1, 0], [0] * 5, [1] * 5]
    assert shared.create_attention_mask(ids).tolist() == expected
    assert BYTES.create_attention_mask(torch.tensor([[256, 97, 256]])).tolist() == [[0, 1, 0]]
    for tokenizer in (shared, BYTES):
        coded = tokenizer.tokenize_text(["hello fox", "fox"])
        found = tokenizer.create_attention_mask(coded["input_ids"])
        assert torch.equal(found, coded["attention_mask"])
        assert found.dtype == torch.int64


def test_decoding_leaves_special_tokens_out() -> None:
    assert BYTES.decode_tokens(torch.tensor([[97, 257, 98, 256]])) == ["ab"]
    assert BYTES.decode_tokens(torch.tensor([97, 98])) == ["ab"]
    assert BYTES.decode_tokens([[97], [98, 255]]) == ["a", "b\N{REPLACEMENT CHARACTER}"]


def test_neither_folder_nor_hub(tmp_path: Path) -> None:
    with pytest.raises(
        OSError, match=r"no such folder here, and .* hub did not .*Without a network.*\"byte\""
    ):
        AdvancedTokenizer(str(tmp_path / "nothing"))
    with pytest.raises(OSError, match="model_name is 'gpt2': there is no such folder"):
        AdvancedTokenizer("gpt2")
    with pytest.raises(ValueError, match="a folder that transformers finds no tokenizer in"):
        AdvancedTokenizer(tmp_path)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: AdvancedTokenizer(3), TypeError, r"model_name is an int \(3\)"),
        (lambda: AdvancedTokenizer("byte", max_length=0), ValueError, "max_length is 0"),
        (lambda: AdvancedTokenizer("byte", padding="left"), ValueError, "padding is 'left', expected one of"),
        (lambda: AdvancedTokenizer("byte", truncation="no"), TypeError, "truncation is a str"),
        (lambda: BYTES.tokenize_text(""), ValueError, "text is empty"),
        (lambda: BYTES.tokenize_text([]), ValueError, "text is an empty list"),
        (lambda: BYTES.tokenize_text(["a", ""]), ValueError, r"text\[1\] is empty"),
        (lambda: BYTES.tokenize_text(["a", None]), TypeError, r"text\[1\] is a NoneType"),
        (lambda: BYTES.tokenize_text(b"a"), TypeError, "text is a bytes"),
        (lambda: BYTES.encode(""), ValueError, "text is empty"),
        (lambda: BYTES.create_attention_mask([[1]]), TypeError, "input_ids is a list"),
        (lambda: BYTES.create_attention_mask(torch.zeros(2)), TypeError, "input_ids has dtype torch.float32"),
        (lambda: BYTES.create_attention_mask(torch.arange(2)), ValueError, r"input_ids has shape \(2,\)"),
        (
            lambda: BYTES.decode_tokens(torch.tensor([[258]])),
            ValueError,
            "token_ids holds 258, expected 0 to",
        ),
        (lambda: BYTES.decode_tokens(torch.tensor([[-1]])), ValueError, "token_ids holds -1"),
        (lambda: BYTES.decode_tokens([1, 2]), TypeError, "token_ids is a list, expected a tensor"),
        (lambda: BYTES.decode_tokens([["a"]]), TypeError, r"token_ids holds a str \('a'\)"),
        (lambda: BYTES.decode_tokens(torch.tensor(1)), ValueError, r"token_ids has shape \(\)"),
    ],
)
def test_errors(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_text_without_tokens(tmp_path: Path) -> None:
    tokenizer = AdvancedTokenizer(word_tokenizer(tmp_path, eos_token="</s>"))
    with pytest.raises(ValueError, match=r"text\[1\] is '  ', which has no tokens"):
        tokenizer.tokenize_text(["hello", "  "])
