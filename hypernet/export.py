"""The hypernetwork as an ONNX model: from text states to the factors of every site, and the reliability.

Inputs `hidden` [batch tokens dim] (and `pooled` [batch pooled], SDXL), both of any batch and number of tokens; the
text encoder stays outside. Outputs `down/SITE` [batch rank in], `up/SITE` [batch out rank] and `reliability`.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from hypernet.factors import Factors
from hypernet.model import Hypernetwork, Prediction
from palp.adapter_file import spec_from_json
from palp.atomic import atomic_write
from palp.base import Base, TextState
from palp.compose import read_strength, strength_note
from palp.errors import AdapterFileError, AdapterMismatchError, OutputError

__all__ = ["OnnxHypernet", "export_onnx", "largest_difference"]

BATCH, TOKENS = 2, 24  # of the example: never 1, which exporters take for a constant
SIZES = ((1, 7), (2, 24), (3, 77))  # batch and tokens at which the export is checked
TOLERANCE = 1e-3  # largest difference to torch, as a share of the largest value


class _Flat(nn.Module):
    """Tensors in, tensors out, in a fixed order."""

    def __init__(self, hypernet: Hypernetwork) -> None:
        super().__init__()
        self.hypernet = hypernet

    def forward(self, hidden: Tensor, pooled: Tensor | None = None) -> tuple[Tensor, ...]:
        """A of every site, B of every site, reliability."""
        prediction: Prediction = self.hypernet(TextState(hidden, pooled))
        return (*prediction.factors.tensors(), prediction.reliability)


def export_onnx(hypernet: Hypernetwork, path: Path) -> float:
    """Write the model, atomically, after holding it against torch at several sizes; returns the largest difference.

    Raises:
        OutputError: the exported model does not give what torch gives, or the file could not be written.
    """
    hypernet = hypernet.cpu().eval()
    with atomic_write(path) as temporary:
        _write(hypernet, temporary)
        difference = largest_difference(hypernet, OnnxHypernet(temporary, ["CPUExecutionProvider"]))
        if difference > TOLERANCE:
            raise OutputError(
                f"the exported model differs from torch by {difference:.1e}, and at most {TOLERANCE:.0e} is allowed: "
                "use other versions of torch and onnxscript"
            )
    return difference


def _write(hypernet: Hypernetwork, path: Path) -> None:
    import onnx

    example = tuple(_random_text(hypernet, BATCH, TOKENS))
    batch, tokens = torch.export.Dim("batch", min=1), torch.export.Dim("tokens", min=1)
    shapes: tuple[Any, ...] = ({0: batch, 1: tokens}, {0: batch})[: len(example)]
    names = [f"{side}/{site.name}" for side in ("down", "up") for site in hypernet.spec.sites]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # each operator of a torchvision that is not there
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            _Flat(hypernet),
            example,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=["hidden", "pooled"][: len(example)],
            output_names=[*names, "reliability"],
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for key, text in _notes(hypernet).items():
        model.metadata_props.append(onnx.StringStringEntryProto(key=key, value=text))
    path.write_bytes(model.SerializeToString())


def _notes(hypernet: Hypernetwork) -> dict[str, str]:
    return {
        "palp.base": hypernet.spec.base,
        "palp.spec": json.dumps(asdict(hypernet.spec)),
        **strength_note(hypernet.subject_scale),
    }


class OnnxHypernet:
    """An exported hypernetwork, run by ONNX Runtime.

    Args:
        path: of the file.
        providers: in order of preference; None is CUDA where torch sees a device, then the CPU.

    Raises:
        AdapterFileError: the file is missing, damaged or no hypernetwork.
    """

    def __init__(self, path: Path, providers: Sequence[str] | None = None) -> None:
        import onnxruntime

        if not path.is_file():
            raise AdapterFileError(f"there is no ONNX model {path}: check the path")
        known = onnxruntime.get_available_providers()  # to this build, wherever it runs
        there = ["CUDAExecutionProvider"] if torch.cuda.is_available() else []
        wanted = providers or [p for p in (*there, "CPUExecutionProvider") if p in known]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=list(wanted))
        except Exception as error:
            raise AdapterFileError(f"{path} is not a model that ONNX Runtime can run ({error})") from error
        notes = self._session.get_modelmeta().custom_metadata_map
        if "palp.spec" not in notes:
            raise AdapterFileError(f"{path} was not exported by palp-hyper: its metadata has no palp.spec")
        self.spec = spec_from_json(notes["palp.spec"], path)
        self.subject_scale = read_strength(notes)

    @property
    def providers(self) -> list[str]:
        """What really runs it; ONNX Runtime falls back to the CPU without an error."""
        found: list[str] = self._session.get_providers()
        return found

    def check_base(self, base: Base) -> None:
        """Raise AdapterMismatchError, naming both sides, unless it predicts adapters for this base."""
        if self.spec.base != base.fingerprint:
            raise AdapterMismatchError(
                f"the ONNX model predicts adapters for {self.spec.base}, and the base at hand is "
                f"{base.fingerprint}: load the model's own base"
            )

    def predict(self, text: TextState) -> tuple[Factors, Float[Tensor, "batch"]]:
        """Factors, and reliability, of encoded prompts."""
        inputs: dict[str, NDArray[np.float32]] = {"hidden": text.hidden.float().cpu().numpy()}
        if text.pooled is not None:
            inputs["pooled"] = text.pooled.float().cpu().numpy()
        names = [output.name for output in self._session.get_outputs()]
        values = dict(zip(names, map(torch.from_numpy, self._session.run(names, inputs)), strict=True))
        down, up = ({site.name: values[f"{side}/{site.name}"] for site in self.spec.sites} for side in ("down", "up"))
        return Factors(self.spec, down, up), values["reliability"]


@torch.no_grad()
def largest_difference(hypernet: Hypernetwork, exported: OnnxHypernet) -> float:
    """Over factors and reliability, at several batches and numbers of tokens, as a share of the largest value."""
    worst = 0.0
    for batch, tokens in SIZES:
        hidden, *pooled = _random_text(hypernet, batch, tokens)
        text = TextState(hidden, pooled[0] if pooled else None)
        expected: Prediction = hypernet(text)
        factors, reliability = exported.predict(text)
        pairs = [*zip(factors.tensors(), expected.factors.tensors(), strict=True), (reliability, expected.reliability)]
        for got, wanted in pairs:
            worst = max(worst, float((got - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6)))
    return worst


def _random_text(hypernet: Hypernetwork, batch: int, tokens: int) -> Iterator[Tensor]:
    rng = torch.Generator().manual_seed(batch * 1000 + tokens)
    yield torch.randn(batch, tokens, hypernet.text.hidden, generator=rng)
    if hypernet.text.pooled is not None:
        yield torch.randn(batch, hypernet.text.pooled, generator=rng)
