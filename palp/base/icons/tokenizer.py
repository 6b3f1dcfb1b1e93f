"""The base's own CLIP tokenizer: byte-level BPE in which every word of the grammar is one token."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from functools import cache
from pathlib import Path

from palp.base.icons.grammar import vocabulary

MAX_TOKENS = 32
START, END = "<|startoftext|>", "<|endoftext|>"


def byte_alphabet() -> list[str]:
    """The 256 printable stand-ins for bytes that CLIP and GPT-2 tokenizers use."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(spare))]


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Merge the most frequent pair until every word is one symbol (ties: alphabetical)."""
    splits = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    while splits := [split for split in splits if len(split) > 1]:
        pairs = Counter(pair for split in splits for pair in itertools.pairwise(split))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        splits = [_merge(split, best) if best[0] in split else split for split in splits]
    return merges


def _merge(split: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for symbol in split:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return out


@cache
def _merges_of_the_grammar() -> list[tuple[str, str]]:
    words = {piece for word in vocabulary() for piece in word.replace("-", " - ").split() if piece.isalpha()}
    return learn_merges(sorted(words))


def write_tokenizer(folder: Path) -> None:
    """Write vocab.json, merges.txt and the configuration of a `CLIPTokenizer` into `folder`."""
    merges = _merges_of_the_grammar()
    alphabet = byte_alphabet()
    symbols = [
        *alphabet,
        *(letter + "</w>" for letter in alphabet),
        *("".join(pair) for pair in merges),
        START,
        END,
    ]
    vocab = {symbol: index for index, symbol in enumerate(dict.fromkeys(symbols))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
    config = {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_TOKENS, "do_lower_case": True,
        "bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=1))
