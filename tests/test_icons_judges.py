"""The two judges: what they see, what they are asked, and the degraded pictures that they learn from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from palp.base.icons import judges as judges_module
from palp.base.icons import train_judges
from palp.base.icons.codec import build_autoencoder, set_encoder
from palp.base.icons.dataset import to_tensor
from palp.base.icons.export import export_judge
from palp.base.icons.grammar import Scene, concepts
from palp.base.icons.judges import (
    CAPTION_WORDS,
    EMBEDDING,
    Eyes,
    build_judges,
    labels,
    load_judges,
    word_index,
    word_tokens,
)
from palp.base.icons.render import Layout
from palp.base.icons.train_judges import (
    Codec,
    attribute_loss,
    clip_loss,
    degrade,
    linear_codec,
    render_judge_chunk,
    targets,
)
from palp.errors import BaseLoadError
from tests.icons import assert_same, renders


@pytest.fixture(scope="module")
def codec() -> Codec:
    vae = build_autoencoder()
    set_encoder(vae, renders(16))
    return linear_codec(vae, torch.device("cpu"))


def test_shapes_and_unit_lengths() -> None:
    attributes, clip = build_judges()
    attributes.eval(), clip.eval()
    pictures = torch.rand(2, 3, 128, 128) * 2 - 1
    with torch.no_grad():
        logits, embedding = attributes(pictures)
        shown, said = clip.embed_pictures(pictures), clip.embed_tokens(word_tokens(["a photo of a cat", "a cat"]))
    assert {name: tuple(values.shape) for name, values in logits.items()} == {
        name: (2, len(words)) for name, words in labels().items()
    }
    for vectors in (embedding, shown, said):
        assert vectors.shape == (2, EMBEDDING)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))


def test_both_judges_are_small() -> None:
    halves = sum(value.numel() * 2 for judge in build_judges() for value in judge.state_dict().values())
    assert halves < 8e6


def test_word_tokens_by_hand() -> None:
    index = word_index()
    tokens = word_tokens(["A photo of a gizmo", " ".join(["cat"] * 40)])
    assert tokens[0, :6].tolist() == [index["a"], index["photo"], index["of"], index["a"], 1, 0]
    assert tokens[1].tolist() == [index["cat"]] * CAPTION_WORDS
    assert min(index.values()) == 2


def test_padding_does_not_change_what_is_said() -> None:
    clip = build_judges()[1].eval()
    tokens = word_tokens(["a photo of a cat"])
    with torch.no_grad():
        before = clip.embed_tokens(tokens)
        clip.words.weight[0] = 9.0
        clip.positions[5:] = -9.0
        torch.testing.assert_close(clip.embed_tokens(tokens), before)
        clip.positions[4] = -9.0
        assert not torch.allclose(clip.embed_tokens(tokens), before)


def test_targets_are_the_scenes_words() -> None:
    scene = Scene("fox", "oil", "cave", "rain", "cold", "bee")
    truth = targets([scene, Scene("cat")])
    assert {name: labels()[name][int(index[0])] for name, index in truth.items()} == {
        "style": "oil", "place": "cave", "weather": "rain", "palette": "cold", "subject": "fox", "companion": "bee",
    }  # fmt: skip
    assert labels()["companion"][int(truth["companion"][1])] == "none"


def test_degraded_pictures_depend_on_the_generator_alone(codec: Codec) -> None:
    pictures = to_tensor(renders(4))
    first, again, other = (degrade(pictures, codec, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == pictures.shape
    assert float(first.abs().max()) <= 1
    difference = (first - pictures).abs().mean(dim=(1, 2, 3))
    assert bool(((difference > 0.001) & (difference < 0.4)).all()), difference


def test_attribute_loss_by_hand() -> None:
    judge = build_judges()[0].eval()
    pictures, truth = torch.rand(2, 3, 128, 128), targets([Scene("cat"), Scene("owl", companion="dog")])
    with torch.no_grad():
        logits, _ = judge(pictures)
        loss = attribute_loss(judge, pictures, truth)
    expected = 0.0
    for name, scores in logits.items():
        logs = scores.log_softmax(dim=1)
        right = logs.gather(1, truth[name][:, None]).mean()
        expected -= (2 if name == "subject" else 1) * float(0.98 * right + 0.02 * logs.mean())
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_clip_loss_by_hand() -> None:
    judge = build_judges()[1].eval()
    pictures, tokens = torch.rand(3, 3, 128, 128), word_tokens(["a cat", "a dog", "a photo of a cow"])
    with torch.no_grad():
        scores = 12.182494 * judge.embed_pictures(pictures) @ judge.embed_tokens(tokens).T  # e to the 2.5
        sides = [functional.cross_entropy(side, torch.arange(3)) for side in (scores, scores.T)]
        torch.testing.assert_close(clip_loss(judge, pictures, tokens), (sides[0] + sides[1]) / 2, atol=1e-5, rtol=0)


def test_a_chunk_is_rendered_once_from_its_own_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_judges, "CHUNK", 6)
    first = render_judge_chunk(tmp_path, 0)
    stamp = first.stat().st_mtime_ns
    assert render_judge_chunk(tmp_path, 0) == first
    assert first.stat().st_mtime_ns == stamp
    other = tmp_path / "other"
    other.mkdir()
    twin = render_judge_chunk(other, 0)
    with np.load(first) as one, np.load(twin) as two:
        assert np.array_equal(one["pictures"], two["pictures"])
        scenes = json.loads(str(one["scenes"]))
        assert str(one["scenes"]) == str(two["scenes"])
    assert len(scenes) == 6


def test_judges_meet_characters_of_the_training_split_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Scene] = []
    monkeypatch.setattr(train_judges, "CHUNK", 150)

    def draw(scene: Scene, rng: np.random.Generator, layout: Layout) -> NDArray[np.uint8]:
        drawn.append(scene)
        return np.zeros((1, 1, 3), dtype=np.uint8)

    monkeypatch.setattr(train_judges, "render", draw)
    render_judge_chunk(tmp_path, 0)
    assert {scene.subject for scene in drawn} <= set(labels()["subject"])
    assert {scene.subject for scene in drawn} - set(concepts()), "no character was drawn"


def test_exported_judges_are_loaded_frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges_module, "FOLDER", tmp_path)
    load_judges.cache_clear()
    built = build_judges()
    for name, judge in zip(("attributes", "clip"), built, strict=True):
        export_judge(tmp_path, name, judge)
    try:
        loaded = load_judges()
    finally:
        load_judges.cache_clear()
    for judge, original in zip(loaded, built, strict=True):
        rounded = {k: v.half().float() if v.is_floating_point() else v for k, v in original.state_dict().items()}
        assert_same(judge.state_dict(), rounded)
        assert not judge.training
        assert not any(parameter.requires_grad for parameter in judge.parameters())


def test_missing_judges_are_said_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges_module, "FOLDER", tmp_path)
    load_judges.cache_clear()
    with pytest.raises(BaseLoadError, match=r"no judge at .*attributes\.safetensors"):
        load_judges()


def test_eyes_say_what_the_judges_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges_module, "AT_ONCE", 2)
    judges = build_judges()
    eyes, pictures, captions = Eyes(judges), torch.rand(3, 3, 128, 128) * 2 - 1, ["a photo of a cat", "a fox"]
    with torch.no_grad():
        logits, faces = judges[0](pictures)
        looks, words = judges[1].embed_pictures(pictures), judges[1].embed_tokens(word_tokens(captions))
    seen, subject = eyes.attributes(pictures)
    assert seen.keys() == logits.keys()
    for got, expected in (
        (seen["style"], logits["style"]),
        (subject, faces),
        (eyes.looks(pictures), looks),
        (eyes.words(captions), words),
    ):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
