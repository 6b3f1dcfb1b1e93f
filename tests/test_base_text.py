"""Prompts and placeholders against the pipelines of diffusers and their textual inversion."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from palp.base import Base, TextState
from palp.errors import InputError, UnknownPlaceholderError
from tests.tiny import KINDS, TOKENS, Kind, tiny_base, tiny_pipeline, tiny_placeholder

EXACT: dict[str, Any] = {"rtol": 0.0, "atol": 0.0}
ROUNDED: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}  # float32, batches of other sizes

PROMPTS = ["a photo of a cat", "", "Two CATS, in a box's shade!", "cat"]


def oracle(pipeline: Any, prompts: list[str]) -> tuple[Tensor, Tensor | None]:
    """The pipeline's own embeddings, the empty prompt as its negative prompt."""
    hidden, pooled = [], []
    for prompt in prompts:
        if hasattr(pipeline, "text_encoder_2"):
            positive, negative, pool, negative_pool = pipeline.encode_prompt(prompt or "cat", device="cpu")
            pooled.append(pool if prompt else negative_pool)
        else:
            positive, negative = pipeline.encode_prompt(prompt or "cat", "cpu", 1, True)
        hidden.append(positive if prompt else negative)
    return torch.cat(hidden), torch.cat(pooled) if pooled else None


def assert_same(state: TextState, expected: tuple[Tensor, Tensor | None], tolerance: dict[str, Any]) -> None:
    torch.testing.assert_close(state.hidden, expected[0], **tolerance)
    assert (state.pooled is None) == (expected[1] is None)
    if state.pooled is not None:
        torch.testing.assert_close(state.pooled, expected[1], **tolerance)


def learn(pipeline: Any, token: str, vectors: dict[str, Tensor]) -> None:
    """Load `vectors` as diffusers' textual inversion under the name `token`."""
    for suffix in ("", "_2"):
        if f"text_encoder{suffix}" in vectors:
            pipeline.load_textual_inversion(
                {token: vectors[f"text_encoder{suffix}"]},
                token=token,
                tokenizer=getattr(pipeline, f"tokenizer{suffix}"),
                text_encoder=getattr(pipeline, f"text_encoder{suffix}"),
            )


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_are_encoded_as_the_pipeline_does(kind: Kind) -> None:
    state = tiny_base(kind).encode_prompts(PROMPTS)
    assert_same(state, oracle(tiny_pipeline(kind), PROMPTS), ROUNDED)
    assert not torch.allclose(state.hidden[0], state.hidden[3], **ROUNDED)


def spelled_out(prompt: str, vectors: int) -> str:
    """`prompt` with all tokens of a [V] of several vectors. Diffusers does this too, but not for a name in
    capitals, as its tokenizer answers in lower case."""
    return prompt.replace("[V]", " ".join(["[V]", *(f"[V]_{index}" for index in range(1, vectors))]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vectors", [1, 3])
def test_placeholders_are_textual_inversion(kind: Kind, vectors: int) -> None:
    base, pipeline = tiny_base(kind), tiny_pipeline(kind)
    known = {"[V]": tiny_placeholder(base, vectors), "[V1]": tiny_placeholder(base, 1, seed=1)}
    for token, values in known.items():
        learn(pipeline, token, values)
    prompts = [
        "a photo of [V]",
        "[V]",
        "a [V]'s cat, and[V1]too",
        "[V1][V1] [V] of",
        "a photo of a cat",
        "a [W] of [v2",
    ]
    expected = oracle(pipeline, [spelled_out(prompt, vectors) for prompt in prompts])
    assert_same(base.encode_prompts(prompts, known), expected, ROUNDED)


@pytest.mark.parametrize("kind", KINDS)
def test_every_prompt_may_have_its_own_vectors(kind: Kind) -> None:
    base = tiny_base(kind)
    mine, other = ({"[V]": tiny_placeholder(base, n, seed=n)} for n in (1, 2))
    together = base.encode_prompts(["a [V]", "a [V]", "a cat"], [mine, other, {}])
    alone = TextState.cat(
        [
            base.encode_prompts(["a [V]"], mine),
            base.encode_prompts(["a [V]"], other),
            base.encode_prompts(["a cat"]),
        ]
    )
    assert_same(together, (alone.hidden, alone.pooled), ROUNDED)
    assert not torch.allclose(together.hidden[0], together.hidden[1], **ROUNDED)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_vector(kind: Kind) -> None:
    base = tiny_base(kind)
    known = {"[V]": {name: v.requires_grad_() for name, v in tiny_placeholder(base, 2).items()}}
    state = base.encode_prompts(["a photo of [V]", "a cat"], known)
    loss = state.hidden[0].square().sum() + (0 if state.pooled is None else state.pooled[0].square().sum())
    gradients = torch.autograd.grad(loss, list(known["[V]"].values()), retain_graph=True)
    for gradient in gradients:
        assert (gradient.abs().sum(1) > 0).all()
    assert all(not p.requires_grad for encoder in base.text_encoders.values() for p in encoder.parameters())
    neighbour = torch.autograd.grad(state.hidden[1].sum(), list(known["[V]"].values()))
    for gradient in neighbour:
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), **EXACT)


def test_gradient_is_that_of_finite_differences() -> None:
    base = tiny_base("sd1")
    base.text_encoders["text_encoder"].double()
    vector = tiny_placeholder(base)["text_encoder"].double().requires_grad_()

    def encode(v: Tensor) -> Tensor:
        return base.family.encode(base.encoders, ["a [V] cat"], [{"[V]": {"text_encoder": v}}]).hidden[:, :6, :4]

    assert torch.autograd.gradcheck(encode, vector, atol=1e-5)


def test_hooks_do_not_stay() -> None:
    base = tiny_base("sd1")
    before = base.encode_prompts(["a cat"]).hidden
    base.encode_prompts(["a [V]"], {"[V]": tiny_placeholder(base)})
    torch.testing.assert_close(base.encode_prompts(["a cat"]).hidden, before, **EXACT)
    assert not base.encoders["text_encoder"].embedding._forward_hooks


@pytest.mark.parametrize("legacy", [False, True])
def test_pooling_is_at_the_end_token_in_old_and_new_configs(legacy: bool) -> None:
    """Configs with `eos_token_id` 2 pool at the highest id. There diffusers pools at the added token, not at
    the end; the state at the end token, projected, is the truth for both."""
    base = tiny_base("sdxl")
    encoder: Any = base.text_encoders["text_encoder_2"]
    if legacy:
        encoder.text_model.eos_token_id = 2
    known = {"[V]": tiny_placeholder(base, 2)}
    prompt = "a [V] cat"
    output = base.encoders["text_encoder_2"].encode([prompt], [known], hidden_states=True)
    end = 1 + 1 + 2 + 1  # start, a, [V] twice, cat
    assert base.encoders["text_encoder_2"].tokenise([prompt], [known]).ids[0, end] == encoder.config.eos_token_id
    expected = encoder.text_projection(output.last_hidden_state[:, end])
    torch.testing.assert_close(base.encode_prompts([prompt], known).pooled, expected, **ROUNDED)


def test_unknown_placeholder_is_named_with_the_known_ones() -> None:
    base = tiny_base("sd1")
    known = {"[V1]": tiny_placeholder(base), "[V2]": tiny_placeholder(base)}
    with pytest.raises(UnknownPlaceholderError, match=r"\[V\].*\[V1\], \[V2\]"):
        base.encode_prompts(["a photo of [V]"], known)
    with pytest.raises(UnknownPlaceholderError, match=r"\[V3\].*none"):
        base.encode_prompts(["a photo of [V3]"])


def test_vectors_of_another_base_are_refused() -> None:
    base, wrong = tiny_base("sdxl"), tiny_placeholder(tiny_base("sd1"))
    with pytest.raises(InputError, match=r"\[V\].*\(1, 32\).*text_encoder.*48"):
        base.encode_prompts(["a [V]"], {"[V]": wrong})
    with pytest.raises(InputError, match="text_encoder_2"):
        base.encode_prompts(["a [V]"], {"[V]": {"text_encoder": torch.zeros(1, 48)}})


@pytest.mark.parametrize("prompt", ["cat " * 40, "cat " * (TOKENS - 4) + "[V] cat", "cat " * TOKENS + "[V]"])
def test_long_prompts_are_cut_as_the_pipeline_does(prompt: str, caplog: pytest.LogCaptureFixture) -> None:
    base, pipeline = tiny_base("sd1"), tiny_pipeline("sd1")
    vectors = tiny_placeholder(base, 3)
    learn(pipeline, "[V]", vectors)
    with caplog.at_level(logging.WARNING, logger="palp.base.tokens"):
        state = base.encode_prompts([prompt], {"[V]": vectors})
    assert_same(state, oracle(pipeline, [spelled_out(prompt, 3)]), ROUNDED)
    assert "cut" in caplog.text


def test_attention_mask_is_used_where_the_config_asks() -> None:
    base, pipeline = tiny_base("sd2"), tiny_pipeline("sd2")
    plain = base.encode_prompts(["a cat"]).hidden
    models: list[Any] = [base.text_encoders["text_encoder"], pipeline.text_encoder]
    for model in models:
        model.config.use_attention_mask = True
    state = base.encode_prompts(["a cat"])
    assert_same(state, oracle(pipeline, ["a cat"]), ROUNDED)
    assert not torch.allclose(state.hidden, plain, **ROUNDED)


def test_word_embedding_is_the_mean_of_its_tokens() -> None:
    base = tiny_base("sdxl")
    for name, encoder in base.encoders.items():
        ids = encoder.tokenizer("cats", add_special_tokens=False).input_ids
        assert len(ids) > 1
        expected = encoder.model.get_input_embeddings().weight[ids].mean(0)
        torch.testing.assert_close(base.word_embedding("cats")[name], expected, **EXACT)
    with pytest.raises(InputError, match="no tokens"):
        base.word_embedding(" ")


@pytest.mark.parametrize(("prompts", "placeholders"), [([], None), (["a", "b"], [{}]), ("a cat", None)])
def test_counts_must_match(prompts: Any, placeholders: Any) -> None:
    with pytest.raises(InputError, match="placeholder mappings"):
        tiny_base("sd1").encode_prompts(prompts, placeholders)


@pytest.mark.parametrize("kind", KINDS)
def test_text_shape_is_that_of_a_row(kind: Kind) -> None:
    base = tiny_base(kind)
    state = base.encode_prompts(["a cat"])
    pooled = None if state.pooled is None else state.pooled.shape[1]
    assert base.text_shape == (*state.hidden.shape[1:], pooled)


@pytest.mark.parametrize("with_more", [False, True])
def test_rows_of_text_states(with_more: bool) -> None:
    hidden = torch.arange(12.0).reshape(3, 2, 2)
    pooled, projected = hidden[:, 0, :1] / 4, {"to_k": 2 * hidden, "to_v": hidden[..., :1]}
    state = TextState(hidden, pooled, projected) if with_more else TextState(hidden)

    def first(rows: TextState) -> list[float]:
        return [float(row[0, 0]) for row in rows.hidden]

    assert len(state) == 3
    assert first(state[[2, 0]]) == [8.0, 0.0]
    assert first(state[1:]) == first(state[torch.tensor([1, 2])]) == [4.0, 8.0]
    assert first(state[:2].repeat(2)) == [0.0, 0.0, 4.0, 4.0]
    joined = TextState.cat([state[2:], state])
    assert first(joined) == [8.0, 0.0, 4.0, 8.0]
    for rows in (state[[2, 0]], state[:2].repeat(2), joined, state.detach()):
        assert (rows.pooled is None) == (rows.projected is None) == (not with_more)
        if rows.pooled is not None and rows.projected is not None:  # each row has kept what is its own
            assert torch.equal(rows.pooled, rows.hidden[:, 0, :1] / 4)
            assert rows.projected.keys() == {"to_k", "to_v"}
            assert torch.equal(rows.projected["to_k"], 2 * rows.hidden)
            assert torch.equal(rows.projected["to_v"], rows.hidden[..., :1])
    assert TextState.cat([TextState(hidden, pooled), TextState(hidden, pooled, projected)]).projected is None
    grown = TextState(hidden.clone().requires_grad_(), None, {"to_k": hidden.clone().requires_grad_()}).detach()
    assert grown.projected is not None
    assert not grown.hidden.requires_grad
    assert not grown.projected["to_k"].requires_grad


def test_base_is_what_the_design_says() -> None:
    base: Base = tiny_base("sdxl")
    assert base.embedding_shapes() == {"text_encoder": 48, "text_encoder_2": 32}
    assert set(base.text_encoders) == set(base.tokenizers) == {"text_encoder", "text_encoder_2"}
    assert (base.resolution, base.latent_shape) == (16, (4, 8, 8))
