"""Drawing and scoring the rows; each row's scores are kept, so that a killed evaluation goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypernet.evaluate.judge import METRICS, Judge, PictureScores
from hypernet.evaluate.rows import ROWS, Cast, Row
from palp.adapter import Adapter
from palp.atomic import write_json
from palp.base import Base
from palp.compose import compose
from palp.corpus import CorpusPrompt, CorpusSubject
from palp.draw import Picture, Sampling, batch_size, draw
from palp.evaluate.shelf import Bar

__all__ = ["HyperStudy", "RowScores"]

RowScores = dict[str, NDArray[np.float64]]
"""One number a picture by metric: by prompt, then subject, then seed."""
_Key = tuple[str, ...]


class HyperStudy:
    """Held-out prompts on held-out subjects.

    Args:
        cast: whose adapters are compared.
        judge: scores the pictures.
        prompts: held-out prompts to draw.
        seeds: pictures of each prompt and subject.
        sampling: how to draw.
        folder: of the scores.
        subjects: held-out subjects to draw; None is all.
        identity: of the hypernetwork, so that another one's scores are not taken for its own.
    """

    def __init__(
        self,
        cast: Cast,
        judge: Judge,
        prompts: Sequence[CorpusPrompt],
        seeds: int,
        sampling: Sampling,
        folder: Path,
        identity: str,
        bar: Bar,
        subjects: int | None = None,
    ) -> None:
        self.cast, self._judge, self.prompts, self.seeds = cast, judge, list(prompts), seeds
        self.sampling, self._folder, self._bar = sampling, folder, bar
        self.subjects = [subject for subject in cast.corpus.subjects if subject.held_out][:subjects]
        self._identity = [identity, [p.key for p in prompts], [s.name for s in self.subjects], seeds, asdict(sampling)]

    @property
    def base(self) -> Base:
        """On which everything is drawn."""
        return self.cast.predictor.base

    def pairs(self) -> list[tuple[CorpusPrompt, CorpusSubject]]:
        """What is drawn, in the order of the scores; each `seeds` times."""
        return [(prompt, subject) for prompt in self.prompts for subject in self.subjects]

    def per_picture(self, values: Sequence[Any]) -> list[Any]:
        """One value a picture from one a prompt."""
        return [value for value in values for _ in range(len(self.subjects) * self.seeds)]

    def scores(self, name: str) -> RowScores:
        """Every metric of every picture of a row; drawn if they are not in the folder."""
        key = hashlib.sha256(json.dumps([name, *self._identity]).encode()).hexdigest()[:16]
        path = self._folder / f"{name}-{key}.json"
        if not path.is_file():
            with self._bar(f"drawing {ROWS[name].label}") as report:
                records: list[PictureScores] = []
                photos: dict[_Key, PictureScores] = {}
                for part in self._parts(ROWS[name]):
                    records += self._score(ROWS[name], part, photos)
                    report(len(records), len(self.pairs()), 0.0)
            write_json(path, records)
        parts = json.loads(path.read_text(encoding="utf-8"))
        return {metric: np.concatenate([np.asarray(part[metric], float) for part in parts]) for metric in METRICS}

    def _parts(self, row: Row) -> list[list[CorpusPrompt]]:
        """The prompts, as many at once as fill a batch."""
        pictures = len(self.subjects) * (self.seeds + (not row.fixed))
        size = max(1, batch_size(self.base) // pictures)
        return [self.prompts[start : start + size] for start in range(0, len(self.prompts), size)]

    def _score(
        self, row: Row, prompts: Sequence[CorpusPrompt], photos: dict[_Key, PictureScores]
    ) -> list[PictureScores]:
        """Prompts on every subject; `photos` keeps the score of "a photo of [V]", one picture a sum of adapters."""
        cells = [(prompt, subject) for prompt in prompts for subject in self.subjects]
        sums = {_key(row, *cell): cell for cell in cells}
        adapters = {key: self._sum(row, *cell) for key, cell in sums.items()}
        new = {key: subject for key, (_, subject) in sums.items() if key not in photos}
        asked = [(prompt.text, adapters[_key(row, prompt, subject)]) for prompt, subject in cells]
        pictures = [Picture(text, seed, adapter) for text, adapter in asked for seed in range(self.seeds)]
        pictures += [Picture(_photo(subject), 0, adapters[key]) for key, subject in new.items()]
        drawn = draw(self.base, pictures, self.sampling).split([self.seeds] * len(cells) + [1] * len(new))
        for (key, subject), shot in zip(new.items(), drawn[len(cells) :], strict=True):
            photos[key] = {name: values * self.seeds for name, values in self._judge.on_photo(shot, subject).items()}
        return [
            {**self._judge.on_prompt(shot, *cell), **photos[_key(row, *cell)]}
            for cell, shot in zip(cells, drawn[: len(cells)], strict=True)
        ]

    def _sum(self, row: Row, prompt: CorpusPrompt, subject: CorpusSubject) -> Adapter:
        """The subject's adapter and the row's, added up."""
        extra = row.adapter(self.cast, prompt, subject)
        if extra is not None:
            return compose([(subject.adapter, self.cast.subject_scale), (extra, 1.0)])
        return subject.adapter.scaled(self.cast.subject_scale if row.subject_scale is None else row.subject_scale)


def _key(row: Row, prompt: CorpusPrompt, subject: CorpusSubject) -> _Key:
    """Of the sum of a subject's adapter and the row's."""
    return (subject.name,) if row.fixed else (subject.name, prompt.key)


def _photo(subject: CorpusSubject) -> str:
    return f"a photo of {min(subject.adapter.placeholders, default='[V]')}"
