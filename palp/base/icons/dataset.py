"""Render the training set of the embedded base once, as latents with their captions' scenes and foregrounds."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from palp.base.icons.codec import LATENT_SIDE
from palp.base.icons.grammar import Scene, random_scene
from palp.base.icons.guise import catalogue, disguised
from palp.base.icons.places import SIZE
from palp.base.icons.render import Layout, foreground, render

LOOSE = 1 / 3  # share of pictures whose things stand off the autoencoder's grid, as they do in a user's pictures
CHUNK = 1000  # pictures in one file: the unit of resuming and of sharing work between processes


@dataclass(frozen=True)
class Example:
    """A rendered scene: picture `[128, 128, 3]` and the share of foreground in every latent cell `[8, 8]`.

    `name` is the number of its subject's guise, or -1.
    """

    scene: Scene
    picture: NDArray[np.uint8]
    cover: NDArray[np.float32]
    name: int


def render_example(
    seed: int, simple: float = 0.3, held_out: bool = False, scene: Scene | None = None, guises: float = 0.0
) -> Example:
    """Draw one example, of a random scene unless one is given; the same seed gives the same example.

    With probability `guises` its subject is in a guise.
    """
    rng = np.random.default_rng(seed)
    scene = scene or random_scene(rng, simple=simple, held_out=held_out)
    name, guise = -1, None
    if guises and rng.random() < guises:
        scene, name = disguised(scene, rng)
        guise = catalogue()[name][1]
    layout = Layout.random(rng, scene.companion is not None)
    if rng.random() < LOOSE:
        layout = layout.loosened(rng)
    cell = SIZE // LATENT_SIDE
    mask = foreground(layout, scene.companion is not None)
    cover = mask.reshape(LATENT_SIDE, cell, LATENT_SIDE, cell).mean(axis=(1, 3))
    return Example(scene, render(scene, rng, layout, guise), cover, name)


def to_tensor(pictures: NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
    """`[n, 128, 128, 3]` bytes to `[n, 3, 128, 128]` floats in [-1, 1]."""
    return torch.as_tensor(pictures).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def render_chunk(folder: Path, index: int, simple: float, guises: float) -> Path:
    """Render pictures `index * CHUNK …` into one compressed file, unless it is there already."""
    path = folder / f"pictures-{index:05d}.npz"
    if path.exists():
        return path
    examples = [render_example(index * CHUNK + i, simple, guises=guises) for i in range(CHUNK)]
    partial = path.with_suffix(".tmp.npz")
    np.savez(
        partial,
        pictures=np.stack([example.picture for example in examples]),
        cover=np.stack([example.cover for example in examples]).astype(np.float16),
        names=np.array([example.name for example in examples], np.int32),
        scenes=np.array(json.dumps([asdict(example.scene) for example in examples])),
    )
    partial.replace(path)
    return path
