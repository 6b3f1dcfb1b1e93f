"""How far a prompt is from the corpus' prompts, and prompts that no corpus has."""

from __future__ import annotations

import string

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hypernet.model import Hypernetwork, text_distance

__all__ = ["fit_gate", "nonsense"]

SHRINKAGE = 0.02  # variance that every direction is taken to have, as a share of the mean one
FAR = 4.0  # the gate is half closed at so many times the distance that all but 1 % of the corpus is within; a class
# word that the corpus has none of moves a prompt by up to 2.7 of them, and what is no prompt the learned part tells
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


def nonsense(random: np.random.Generator, count: int) -> list[str]:
    """Prompts of one to four words of random letters: short enough for any text encoder."""
    return [
        " ".join("".join(random.choice(LETTERS, random.integers(2, 9))) for _ in range(random.integers(1, 5)))
        for _ in range(count)
    ]
