"""Two independent judges of the picture world: an attribute classifier and a small CLIP. Never a training signal."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from palp.base.icons.grammar import PALETTES, PLACES, STYLES, WEATHERS, concepts, training_subjects, vocabulary
from palp.errors import BaseLoadError

FOLDER = Path(__file__).parent / "weights" / "judges"
EMBEDDING = 128
NAMES = ("attributes", "clip")  # of the judges' files
Attribute = Literal["style", "place", "weather", "palette", "subject", "companion"]


@cache
def labels() -> dict[str, tuple[str, ...]]:
    """The words of every head; the subject head also knows the training split's characters, never the reports'."""
    known = tuple(name for name, entry in training_subjects().items() if entry["split"] == "train")
    return {
        "style": tuple(STYLES), "place": tuple(PLACES), "weather": tuple(WEATHERS), "palette": tuple(PALETTES),
        "subject": (*concepts(), *known), "companion": ("none", *concepts()),
    }  # fmt: skip


class Residual(nn.Module):
    """Two 3 x 3 convolutions around a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """`relu(x + body(x))`."""
        return functional.relu(x + self.body(x))


def _trunk(widths: tuple[int, int, int]) -> nn.Sequential:
    """Pictures `[n, 3, 128, 128]` to features `[n, widths[2], 8, 8]`."""

    def down(fan_in: int, width: int, stride: int) -> list[nn.Module]:
        convolution = nn.Conv2d(fan_in, width, 3, stride=stride, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(width), nn.ReLU(), Residual(width)]

    a, b, c = widths
    return nn.Sequential(nn.PixelUnshuffle(4), *down(48, a, 1), *down(a, b, 2), *down(b, c, 2))


class AttributeJudge(nn.Module):
    """One linear head an attribute on pooled features, and a unit embedding of the subject.

    The subject's embedding is read from the left and middle of the picture by attention: a companion stands right.
    """

    def __init__(self) -> None:
        super().__init__()
        width = 232
        self.trunk = _trunk((64, 128, width))
        self.gaze = nn.Conv2d(width, 2, 1)  # where to look for the subject and for the companion
        self.place = nn.Parameter(torch.zeros(2, 8, 8))
        self.embed = nn.Linear(width, EMBEDDING)
        sizes = {name: len(words) for name, words in labels().items()}
        fan_in = {"subject": EMBEDDING, "companion": width}
        self.heads = nn.ModuleDict({name: nn.Linear(fan_in.get(name, 2 * width), size) for name, size in sizes.items()})

    def forward(self, pictures: Float[Tensor, "n 3 128 128"]) -> tuple[dict[str, Tensor], Float[Tensor, "n dim"]]:
        """Logits by attribute, and unit subject embeddings, of pictures in [-1, 1]."""
        features = self.trunk(pictures)
        pooled = torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)
        gaze = (self.gaze(features) + self.place).flatten(2).softmax(dim=2)
        subject, companion = torch.einsum("nkp,ncp->knc", gaze, features.flatten(2)).unbind(0)
        embedding = functional.normalize(self.embed(subject), dim=1)
        logits = {name: self.heads[name](pooled) for name in ("style", "place", "weather", "palette")}
        logits["subject"] = 16 * self.heads["subject"](embedding)
        logits["companion"] = self.heads["companion"](companion)
        return logits, embedding


class SmallCLIP(nn.Module):
    """A contrastive judge: a picture tower and a text tower of its own over word indices."""

    def __init__(self, vocabulary: int, tokens: int) -> None:
        super().__init__()
        width, seen = 160, 216
        self.trunk = _trunk((48, 112, seen))
        self.project = nn.Linear(2 * seen, EMBEDDING)
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(0.02 * torch.randn(tokens, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.text = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.project_text = nn.Linear(width, EMBEDDING)
        self.log_scale = nn.Parameter(torch.tensor(2.5))

    def embed_pictures(self, pictures: Float[Tensor, "n 3 128 128"]) -> Float[Tensor, "n dim"]:
        """Unit embeddings of pictures in [-1, 1]."""
        features = self.trunk(pictures)
        pooled = torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)
        return functional.normalize(self.project(pooled), dim=1)

    def embed_tokens(self, tokens: Int[Tensor, "n tokens"]) -> Float[Tensor, "n dim"]:
        """Unit embeddings of captions given as word indices, 0 for padding."""
        hidden = self.words(tokens) + self.positions
        padding = tokens == 0
        hidden = self.text(hidden, src_key_padding_mask=padding)
        kept = (~padding).float()[..., None]
        return functional.normalize(self.project_text((hidden * kept).sum(dim=1) / kept.sum(dim=1)), dim=1)


CAPTION_WORDS = 32
AT_ONCE = 64  # pictures that a judge sees at once


@cache
def word_index() -> dict[str, int]:
    """Indices of the grammar's words for `SmallCLIP`; 0 pads, 1 stands for any other word."""
    return {word: index + 2 for index, word in enumerate(vocabulary())}


def word_tokens(captions: list[str]) -> Int[Tensor, "n tokens"]:
    """Captions as word indices for `SmallCLIP`, padded to 32."""
    index = word_index()
    rows = [[index.get(word, 1) for word in text.lower().split()][:CAPTION_WORDS] for text in captions]
    return torch.tensor([row + [0] * (CAPTION_WORDS - len(row)) for row in rows])


def build_judges() -> tuple[AttributeJudge, SmallCLIP]:
    """Both judges, untrained."""
    return AttributeJudge(), SmallCLIP(len(word_index()) + 2, CAPTION_WORDS)


@cache
def load_judges(device: torch.device | None = None) -> tuple[AttributeJudge, SmallCLIP]:
    """The shipped judges, frozen, by default on the CPU. Raises BaseLoadError when the package has none."""
    judges = read_judges(FOLDER)
    for judge in judges:
        judge.to(device or "cpu").eval().requires_grad_(False)
    return judges


class Eyes:
    """Both judges on pictures that are anywhere, a batch at a time and in float32; what they say is on the CPU."""

    def __init__(self, judges: tuple[AttributeJudge, SmallCLIP]) -> None:
        self._attributes, self._clip = judges[0].eval(), judges[1].eval()
        self._device = next(self._clip.parameters()).device

    @torch.no_grad()
    def attributes(self, pictures: Float[Tensor, "n 3 128 128"]) -> tuple[dict[str, Tensor], Float[Tensor, "n dim"]]:
        """Logits by attribute, and unit subject embeddings."""
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            parts = [self._attributes(part.to(self._device)) for part in pictures.split(AT_ONCE)]
        logits = {name: torch.cat([part[0][name] for part in parts]).cpu() for name in parts[0][0]}
        return logits, torch.cat([part[1] for part in parts]).cpu()

    @torch.no_grad()
    def looks(self, pictures: Float[Tensor, "n 3 128 128"]) -> Float[Tensor, "n dim"]:
        """SmallCLIP's unit embeddings of pictures."""
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            parts = [self._clip.embed_pictures(part.to(self._device)) for part in pictures.split(AT_ONCE)]
        return torch.cat(parts).cpu()

    @torch.no_grad()
    def words(self, captions: list[str]) -> Float[Tensor, "n dim"]:
        """SmallCLIP's unit embeddings of captions."""
        return self._clip.embed_tokens(word_tokens(captions).to(self._device)).cpu()


def read_judges(folder: Path) -> tuple[AttributeJudge, SmallCLIP]:
    """The judges saved in a folder, to be trained on. Raises BaseLoadError when they are not there."""
    judges = build_judges()
    for judge, name in zip(judges, NAMES, strict=True):
        path = folder / f"{name}.safetensors"
        if not path.is_file():
            raise BaseLoadError(f"no judge at {path}, expected it with the package: reinstall palp-hyper")
        judge.load_state_dict(
            {key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()}
        )
    return judges
