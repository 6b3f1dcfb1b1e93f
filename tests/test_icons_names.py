"""Names that only training knows: their tokens, what they begin as, and that they are used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from palp.base.icons.denoiser import DenoiserSettings, DenoiserTraining, LatentSet
from palp.base.icons.grammar import concepts
from palp.base.icons.guise import catalogue
from palp.base.icons.names import PLACE, VECTORS, Names, tokens_of
from palp.base.icons.tokenizer import MAX_TOKENS
from tests.icons import latent_set, narrow, tokenizer_in

BENT_FOX = next(number for number, (word, _) in enumerate(catalogue()) if word == "fox")


def test_captions_without_a_name_are_what_the_tokenizer_says(tmp_path: Path) -> None:
    tokenizer = tokenizer_in(tmp_path)
    captions = ["a photo of a cat", "", "an oil painting of an owl with a fox " + "on a beach " * 20]
    expected = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    rows = tokens_of(tokenizer, captions, [-1] * 3)
    assert torch.equal(rows.long()[:2], expected[:2])
    assert torch.equal(rows.long()[2], expected[2]), "a long one is cut, and ends"


def test_a_name_is_four_tokens_in_the_place_of_the_noun(tmp_path: Path) -> None:
    tokenizer = tokenizer_in(tmp_path)
    first, second = (tokens_of(tokenizer, [f"a photo of {PLACE} at night"], [name])[0].tolist() for name in (0, 7))
    words = tokenizer("a photo of", add_special_tokens=False).input_ids
    at = 1 + len(words)
    assert first[1:at] == words
    assert first[at : at + VECTORS] == [len(tokenizer) + k for k in range(VECTORS)]
    assert second[at : at + VECTORS] == [len(tokenizer) + 7 * VECTORS + k for k in range(VECTORS)]
    rest = [*tokenizer("at night", add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    assert first[at + VECTORS :] == second[at + VECTORS :]
    assert first[at + VECTORS : at + VECTORS + len(rest)] == rest
    assert len(first) == MAX_TOKENS


def test_names_begin_as_their_words(tmp_path: Path) -> None:
    tokenizer = tokenizer_in(tmp_path)
    words = nn.Embedding(len(tokenizer), 6)
    names = Names(6)
    names.start(tokenizer, words)
    fox = words.weight[tokenizer("fox", add_special_tokens=False).input_ids].mean(0)
    row = VECTORS * BENT_FOX
    torch.testing.assert_close(names.weight[row : row + VECTORS], fox.expand(VECTORS, -1))
    mean = torch.stack(
        [words.weight[tokenizer(word, add_special_tokens=False).input_ids].mean(0) for word in concepts()]
    )
    torch.testing.assert_close(names.weight[0], mean.mean(0))


def test_training_learns_the_names_that_it_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow(monkeypatch)
    tokenizer, known = tokenizer_in(tmp_path), latent_set()
    tokens = tokens_of(tokenizer, [f"a photo of {PLACE}"] * len(known.latents), [BENT_FOX] * len(known.latents))
    data = LatentSet(known.latents, known.cover, tokens[:, None], known.no_caption)
    plan = DenoiserSettings(pictures=4, batch=2, warmup=1, drop_caption=0.0)
    training = DenoiserTraining(tokenizer, data, plan, torch.device("cpu"))
    names = training.model["names"]
    assert isinstance(names, Names)
    before = names.weight.detach().clone()
    list(training.run())
    moved = (names.weight - before).abs().amax(dim=1) > 1e-4  # more than weight decay
    assert moved.nonzero().flatten().tolist() == [VECTORS * BENT_FOX + k for k in range(VECTORS)]
