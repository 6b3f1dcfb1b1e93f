"""Drawing pictures: `palp.base.sample` against diffusers' pipeline, prompts encoded in either, with and without LoRA.

And what comes last in that, alone: latents to pictures.

Ours has its adapter in a bank, diffusers has it in PEFT layers, not fused. The pipeline is as it comes, with its own
attention; arithmetic is the same in both.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from benchmarks import setting
from benchmarks.measure import milliseconds, ratio, report, take_turns
from palp.bank import AdapterBank
from palp.base import Base, load_base, sample
from palp.base.latents import decode_latents
from palp.recipes import guidance_scale

BATCHES = (1, 8)
STEPS = 20


def peer(source: str, base: Base) -> Any:
    """Diffusers' pipeline in the base's type and place."""
    pipeline: Any = DiffusionPipeline.from_pretrained(setting.folder_of(source), torch_dtype=base.weights_dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(base.device)


def draw(base: Base, batch: int, bank: AdapterBank | None) -> Callable[[], object]:
    """Ours: one prompt, a batch of seeds."""

    def run() -> None:
        text, null = base.encode_prompts([setting.PROMPT]), base.encode_prompts([""])
        if bank is None:
            sample(base, text, null, range(batch), steps=STEPS, guidance=guidance_scale(base.name))
            return
        bank.attach()
        with bank.route(torch.zeros(2 * batch, dtype=torch.long)):
            sample(base, text, null, range(batch), steps=STEPS, guidance=guidance_scale(base.name))
        bank.detach()

    return run


def draw_plainly(base: Base, pipeline: Any, batch: int) -> Callable[[], object]:
    """Diffusers: the same."""

    def run() -> None:
        seeds = [torch.Generator().manual_seed(seed) for seed in range(batch)]
        with torch.no_grad(), setting.arithmetic(base):
            pipeline(
                [setting.PROMPT] * batch,
                num_inference_steps=STEPS,
                guidance_scale=guidance_scale(base.name),
                generator=seeds,
                output_type="pt",
            )

    return run


def decode(vae: Any, base: Base, batch: int) -> Callable[[], object]:
    """Pictures from latents by an autoencoder."""
    latents = torch.randn(batch, *base.latent_shape, generator=torch.Generator().manual_seed(0)).to(base.device)
    return lambda: decode_latents(vae, latents)


def main(
    source: setting.BaseOption = "icons",
    device: setting.Device = None,
    dtype: setting.Dtype = "auto",
    repeats: setting.Repeats = 10,
    quick: setting.Quick = False,
    out: setting.Out = None,
) -> None:
    """Time batches of one and of eight."""
    base = load_base(source, device, dtype)
    batches, repeats = (BATCHES[:1], 2) if quick else (BATCHES, repeats)
    bank, plain, adapted = _adapted(source, base)
    cases: dict[str, Callable[[], object]] = {}
    pairs = []
    for batch in batches:
        for label, own, pipeline in (("", None, plain), (", LoRA", bank, adapted)):
            ours, theirs = f"batch {batch}{label}", f"batch {batch}{label}, diffusers"
            cases |= {ours: draw(base, batch, own), theirs: draw_plainly(base, pipeline, batch)}
            pairs.append((ours, theirs))
        ours, theirs = f"batch {batch}, decoding", f"batch {batch}, decoding, diffusers"
        cases |= {ours: decode(base.vae, base, batch), theirs: decode(plain.vae, base, batch)}
        pairs.append((ours, theirs))
    times = take_turns(cases, repeats, base.device)
    rows = milliseconds(times)
    for ours, theirs in pairs:
        rows[ours]["by_diffusers"] = ratio(times, ours, theirs)
    report("sampling", base, rows, {"steps": STEPS, "scheduler": "ddim", "rounds": repeats}, out)


def _adapted(source: str, base: Base) -> tuple[AdapterBank, Any, Any]:
    """One adapter in a bank and in diffusers' pipeline, and the pipeline without."""
    adapter = setting.random_adapter(base)
    bank = AdapterBank(base.unet, adapter.spec, 1)
    bank.write(0, adapter)
    plain, adapted = peer(source, base), peer(source, base)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.safetensors"
        adapter.save(path)
        adapted.load_lora_weights(folder, weight_name=path.name)
    return bank, plain, adapted


if __name__ == "__main__":
    setting.run(main)
