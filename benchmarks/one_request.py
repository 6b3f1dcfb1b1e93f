"""One request: what its adapters cost before the first step, and at each step, beside what others do.

Before: a prediction for a prompt that was never asked for, its installing with the subject in a slot, and the text's
keys and values, against one denoising step and a picture's time (goals: at most one step, and 5 %). A step: subject
and prompt adapter in a slot against the bare base (goal: at most 1.05), and in the weights, as the engine has them in
a batch of one slot where that pays, for as few steps as it tries that for; beside diffusers' denoiser with the same
two adapters by `set_adapters`, which is PEFT unmerged, without them, and fused. The hypernetwork is random unless
given.
"""

from __future__ import annotations

import itertools
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from benchmarks import setting
from benchmarks.measure import Milliseconds, Rows, milliseconds, ratio, report, take_turns
from hypernet.config import HyperConfig
from hypernet.model import Hypernetwork
from palp.adapter import Adapter
from palp.base import Base, TextState, load_base
from palp.evaluate.intervals import estimate
from palp.recipes import recipe
from serving.engine.merging import MERGE_FOR
from serving.engine.predictions import Network, Predictions
from serving.engine.slots import BARE, Part, Slots

ROWS = 2  # of a picture, with guidance
STEPS = 20  # of a picture
Case = Callable[[], object]
NAMES = ["subject", "prompt"]


def random_predictions(base: Base) -> Predictions:
    """A hypernetwork of the usual size that is sure of whatever it says."""
    spec = setting.adapter_spec(base, recipe(base.name, "residual").rank)
    hypernet = Hypernetwork(spec, base.text_shape, HyperConfig()).to(base.device).eval()
    with torch.no_grad():
        for parameter in (hypernet.gain, *hypernet.basis_down, *hypernet.basis_up):
            parameter.normal_(std=0.05)

    def read(text: TextState) -> tuple[Any, Tensor]:
        return hypernet(text).factors, torch.ones(len(text))

    return Predictions(base, Network(read, spec, "random", f"torch {base.device.type}"))


class Request:
    """The parts of a request, each of which can be done again: always another prompt, always another slot."""

    def __init__(self, base: Base, predictions: Predictions, subject: Adapter) -> None:
        self.base, self.predictions, self.subject = base, predictions, subject
        self.slots = Slots(base, subject.spec.rank + predictions.network.spec.rank, 4)
        self.x_t = torch.randn(ROWS, *base.latent_shape, device=base.device)
        self.t = torch.full((ROWS,), 500, device=base.device)
        self.plain = base.encode_prompts(["", setting.PROMPT])
        self.bare = base.project(self.plain)
        self.numbers = itertools.count()
        self.predict()
        self.install()
        self.project()

    def predict(self) -> None:
        """An adapter for a new prompt."""
        prompt = f"a pencil sketch of [V] on a beach, number {next(self.numbers)}"
        self.forecast = self.predictions.forecast(prompt, setting.CLASS_WORD)

    def install(self) -> None:
        """Subject and prompt adapter in a slot."""
        assert self.forecast.adapter is not None, "the hypernetwork abstains: give one that knows such prompts"
        key = str(next(self.numbers))
        self.slot = self.slots.acquire([Part("s", self.subject, 1.0), Part(key, self.forecast.adapter, 1.0)])
        self.slots.release(self.slot)

    def project(self) -> None:
        """The text's keys and values."""
        with self.slots.route(torch.full((ROWS,), self.slot)):
            self.text = self.base.project(self.plain)

    def first_steps(self) -> None:
        """A picture's first steps through a slot just written, whose factors are picked and cast in the very first."""
        for _ in range(MERGE_FOR):
            self.step()

    def step(self) -> None:
        """One of the other denoising steps through the slot."""
        with self.slots.route(torch.full((ROWS,), self.slot)):
            self.base.predict(self.x_t, self.t, self.text)

    def bare_step(self) -> None:
        """A denoising step of the base."""
        self.base.predict(self.x_t, self.t, self.bare)

    def merged_steps(self) -> None:
        """The fewest steps that the engine merges the slot for, with the merge."""
        self.slots.merge(self.slot)
        for _ in range(MERGE_FOR):
            self.base.predict(self.x_t, self.t, self.text)
        self.slots.merge(BARE)

    def bare_steps(self) -> None:
        """As many of the base."""
        for _ in range(MERGE_FOR):
            self.bare_step()

    def step_of(self, peer: Base) -> None:
        """A denoising step of a peer's denoiser, which makes keys and values itself."""
        peer.predict(self.x_t, self.t, self.plain)


class Peer:
    """Diffusers' denoiser as it comes, over the base's own weights, with two adapters in PEFT layers."""

    def __init__(self, base: Base, adapters: Sequence[Adapter]) -> None:
        with torch.device("meta"):
            unet: Any = type(base.unet).from_config(base.unet.config)
        unet.load_state_dict(base.unet.state_dict(), assign=True)
        self.unet = unet.eval().requires_grad_(False)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # PEFT's, of a second adapter
            for name, adapter in zip(NAMES, adapters, strict=True):
                adapter.save(Path(folder) / f"{name}.safetensors")
                self.unet.load_lora_adapter(folder, weight_name=f"{name}.safetensors", adapter_name=name, prefix="unet")
        self.base = replace(base, unet=self.unet)
        self._scales = itertools.cycle((0.5, 1.0))

    def switch(self) -> None:
        """To the two adapters, with other scales."""
        scale = next(self._scales)
        self.unet.set_adapters(NAMES, [scale, scale])

    def fuse(self) -> None:
        """Into the weights, and out of them."""
        self.unet.fuse_lora(adapter_names=NAMES)
        self.unet.unfuse_lora()

    def cases(self, request: Request) -> dict[str, Case]:
        """What takes turns."""

        def step() -> None:
            request.step_of(self.base)

        def bare_step() -> None:
            self.unet.disable_lora()
            step()
            self.unet.enable_lora()

        def fused_step() -> None:
            self.unet.fuse_lora(adapter_names=NAMES)
            step()
            self.unet.unfuse_lora()

        return {
            "diffusers set_adapters": self.switch,
            "diffusers fuse and unfuse": self.fuse,
            "diffusers step, bare": bare_step,
            "diffusers step, set_adapters": step,
            "diffusers step, fused": fused_step,
        }


def rows_of(times: dict[str, list[float]]) -> Rows:
    """The figures that the goals are about, beside the times."""
    before = [sum(parts) for parts in zip(times["predict"], times["install"], strict=True)]
    times["predict + install"] = before
    fused = zip(times["diffusers step, fused"], times["diffusers fuse and unfuse"], strict=True)
    times["diffusers step, fused"] = [both - fuse for both, fuse in fused]
    rows = milliseconds(times)
    for case in ("predict", "install", "project text", "predict + install", "diffusers set_adapters"):
        rows[case]["by_step"] = ratio(times, case, "step")
    rows["diffusers fuse and unfuse"]["by_step"] = ratio(times, "diffusers fuse and unfuse", "step")
    rows["predict + install"]["of_picture"] = _of_picture(times, before)
    for case in ("first steps", "merged steps"):
        rows[case]["by_bare"] = ratio(times, case, "bare steps")
    rows["step"]["by_bare"] = ratio(times, "step", "bare step")
    for how in ("set_adapters", "fused"):
        case = f"diffusers step, {how}"
        rows[case]["by_bare"] = ratio(times, case, "diffusers step, bare")
        rows[case]["ours_by_this"] = ratio(times, "step", case)
    return rows


def _of_picture(times: Milliseconds, before: Sequence[float]) -> Any:
    """The share of a picture's time, without encoding and decoding."""
    return estimate([first / (first + STEPS * step) for first, step in zip(before, times["step"], strict=True)])


@torch.no_grad()
def main(
    source: setting.BaseOption = "icons",
    device: setting.Device = None,
    dtype: setting.Dtype = "auto",
    repeats: setting.Repeats = 20,
    quick: setting.Quick = False,
    out: setting.Out = None,
    hypernet: Annotated[Path | None, typer.Option(help="Run folder or file; by default random.")] = None,
) -> None:
    """Time the parts of a request and the steps of all."""
    base = load_base(source, device, dtype)
    repeats = 2 if quick else repeats
    predictions = random_predictions(base) if hypernet is None else Predictions.open(base, hypernet)
    request = Request(base, predictions, setting.random_adapter(base, rank=recipe(base.name, "subject").rank))
    assert request.forecast.adapter is not None
    peer = Peer(base, [request.subject, request.forecast.adapter])
    cases: dict[str, Case] = {
        "predict": request.predict,
        "install": request.install,
        "project text": request.project,
        "bare step": request.bare_step,
        "first steps": request.first_steps,
        "step": request.step,
        "bare steps": request.bare_steps,
        "merged steps": request.merged_steps,
    }
    times = take_turns(cases | peer.cases(request), repeats, base.device)
    about = {"steps": STEPS, "rank": request.slots.rank, "rounds": repeats, "hypernet": predictions.network.runner}
    report("one_request", base, rows_of(times), about, out)


if __name__ == "__main__":
    setting.run(main)
