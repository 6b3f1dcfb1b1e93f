"""How far a prompt is from the corpus' prompts, and prompts that no corpus has."""

from __future__ import annotations

import string

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hypernet.losses import trust
from hypernet.model import Hypernetwork, text_distance
from palp.base import TextState

__all__ = ["fit_gate", "fit_trust", "nonsense"]

SHRINKAGE = 0.02  # variance that every direction is taken to have, as a share of the mean one
FAR = 4.0  # the gate is half closed at so many times the distance that all but 1 % of the corpus is within; a class
# word that the corpus has none of moves a prompt by up to 2.7 of them, and what is no prompt the learned part tells
TRUST_STEPS, TRUST_LR = 300, 1e-3  # to fit what is learned of the reliability, on states that stay
LETTERS = np.array(list(string.ascii_lowercase))


@torch.no_grad()
def fit_gate(hypernet: Hypernetwork, hidden: Float[Tensor, "prompts tokens dim"]) -> None:
    """Set a hypernetwork's gate by the token states of the corpus' prompts, in place."""
    means = hidden.double().mean(1)
    centre = means.mean(0)
    values, vectors = torch.linalg.eigh((means - centre).T @ (means - centre) / len(means))
    values = values.clamp(min=0)
    whitening = (vectors * (values + SHRINKAGE * values.mean()).clamp(min=1e-12).rsqrt()) @ vectors.T
    distance = text_distance(hidden, centre.float(), whitening.float())
    hypernet.get_buffer("text_mean").copy_(centre)
    hypernet.get_buffer("text_whitening").copy_(whitening)
    hypernet.get_buffer("text_far").copy_(FAR * torch.quantile(distance, 0.99))


def fit_trust(hypernet: Hypernetwork, known: TextState, other: TextState) -> None:
    """Fit the learned part of the reliability to a finished network's states, in place; the rest stays as it is.

    While the network learned, its states moved on; their average, which is kept, is of many moments.

    Args:
        known: prompts of the corpus' kind.
        other: nonsense.
    """
    with torch.no_grad():
        states = torch.cat([hypernet.states(text).mean(1) for text in (known, other)])
    is_known = torch.arange(len(states), device=states.device) < len(known.hidden)
    head = hypernet.trust.requires_grad_(True)
    optimizer = torch.optim.AdamW(head.parameters(), lr=TRUST_LR)
    for _ in range(TRUST_STEPS):
        optimizer.zero_grad()
        trust(head(states).squeeze(1), is_known).mean().backward()
        optimizer.step()
    head.requires_grad_(False)


def nonsense(random: np.random.Generator, count: int) -> list[str]:
    """Prompts of one to four words of random letters: short enough for any text encoder."""
    return [
        " ".join("".join(random.choice(LETTERS, random.integers(2, 9))) for _ in range(random.integers(1, 5)))
        for _ in range(count)
    ]
