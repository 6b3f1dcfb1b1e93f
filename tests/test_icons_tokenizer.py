"""The embedded base's tokenizer, read by transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import CLIPTokenizer

from palp.base.icons.grammar import caption, random_scene, vocabulary
from palp.base.icons.tokenizer import END, MAX_TOKENS, START, byte_alphabet, learn_merges, write_tokenizer
from tests.icons import tokenizer_in


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    return tokenizer_in(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("word", [word for word in vocabulary() if "-" not in word])
def test_a_word_is_one_token(tokenizer: CLIPTokenizer, word: str) -> None:
    assert tokenizer.tokenize(word) == [f"{word}</w>"]
    assert tokenizer.tokenize(word.upper()) == [f"{word}</w>"]


def test_a_hyphenated_word_falls_into_its_parts(tokenizer: CLIPTokenizer) -> None:
    assert tokenizer.tokenize("8-bit") == ["8</w>", "-</w>", "bit</w>"]


def test_a_caption_and_its_ids(tokenizer: CLIPTokenizer) -> None:
    vocab = tokenizer.get_vocab()
    row = tokenizer("a photo of a cat", padding="max_length", truncation=True).input_ids
    words = [START, "a</w>", "photo</w>", "of</w>", "a</w>", "cat</w>"]
    assert row == [vocab[word] for word in words] + [vocab[END]] * (MAX_TOKENS - len(words))


def test_other_words_are_spelled_out(tokenizer: CLIPTokenizer) -> None:
    ids = tokenizer("zyzzyva übergroß", add_special_tokens=False).input_ids
    assert len(ids) > 2
    assert tokenizer.decode(ids) == "zyzzyva übergroß"


def test_captions_fit(tokenizer: CLIPTokenizer) -> None:
    rng = np.random.default_rng(0)
    captions = [caption(random_scene(rng), rng) for _ in range(150)]
    lengths = [len(row) for row in tokenizer(captions).input_ids]
    assert max(lengths) < MAX_TOKENS


def test_ids_are_unique_and_complete(tokenizer: CLIPTokenizer) -> None:
    ids = sorted(tokenizer.get_vocab().values())
    assert ids == list(range(len(ids)))
    assert len(set(byte_alphabet())) == 256
    assert tokenizer.get_vocab()[END] == len(ids) - 1


def test_writing_is_deterministic(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_tokenizer(tmp_path / name)
    first = {path.name: path.read_bytes() for path in (tmp_path / "first").iterdir()}
    second = {path.name: path.read_bytes() for path in (tmp_path / "second").iterdir()}
    assert first == second
    assert {"vocab.json", "merges.txt", "tokenizer_config.json"} <= first.keys()


def test_merges_by_hand() -> None:
    assert learn_merges(["ab", "abc"]) == [("a", "b"), ("a", "b</w>"), ("ab", "c</w>")]
