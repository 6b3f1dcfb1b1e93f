"""From a prompt nobody trained to its adapter, in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hypernet.file import check_base
from hypernet.model import Hypernetwork, Prediction
from hypernet.prompts import encode_clean
from palp.adapter import Adapter
from palp.bank import AdapterBank
from palp.base import Base
from palp.compose import strength_note

__all__ = ["Predictor"]


class Predictor:
    """A hypernetwork on its base.

    Args:
        base: whose text encoder reads the prompts.
        hypernet: moved to the base's device.

    Raises:
        AdapterMismatchError: it predicts for another base.
    """

    def __init__(self, base: Base, hypernet: Hypernetwork) -> None:
        check_base(hypernet, base)
        self.base, self.hypernet = base, hypernet.to(base.device).eval()

    def predict_adapter(self, prompt: str, class_word: str) -> Adapter:
        """The adapter of a prompt, zero where the network abstains; its reliability is in the metadata.

        Args:
            prompt: with the subject's slot, "a pencil sketch of [V] on a beach".
            class_word: what the base calls the subject.

        Raises:
            InputError: the prompt names no subject, or several.
        """
        prediction = self.predict([prompt], [class_word])
        notes = {
            **(strength_note(self.hypernet.subject_scale) if bool(prediction.strength[0]) else {}),
            "prompt": prompt,
            "class_word": class_word,
            "form": "residual",
            "rule": "predicted",
            "reliability": f"{float(prediction.reliability[0]):.3f}",
        }
        return prediction.factors.scaled(prediction.strength).adapter(0, notes)

    @torch.no_grad()
    def predict(self, prompts: Sequence[str], class_words: Sequence[str]) -> Prediction:
        """Adapters of several prompts as one batch, abstention not applied.

        Raises:
            InputError: as `predict_adapter`.
        """
        prediction: Prediction = self.hypernet(encode_clean(self.base, prompts, class_words))
        return prediction

    @torch.no_grad()
    def write(
        self, bank: AdapterBank, slots: Sequence[int], prompts: Sequence[str], class_words: Sequence[str]
    ) -> Float[Tensor, "batch"]:
        """Predict straight into slots of a bank, zero where the network abstains; returns the reliabilities.

        Raises:
            InputError: as `predict_adapter`.
            AdapterMismatchError: the bank's spec is another.
        """
        prediction = self.predict(prompts, class_words)
        prediction.factors.scaled(prediction.strength).write(bank, slots)
        return prediction.reliability
