"""K adapters in one bank against K trainings with PEFT one after the other, on the same U-Net and cached inputs.

Both see the same batch a step and adapter, and take AdamW steps on the pairs of every attention projection. The peer's
K trainings take K times one training; its memory is that of one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks import setting
from benchmarks.measure import Rows, peak_memory, ratio, report, take_turns
from benchmarks.peers import LEARNING_RATE, DreamBoothLora, with_peft
from palp.bank import AdapterBank
from palp.base import Base, load_base
from palp.evaluate.intervals import Estimate, estimate
from palp.optim import SlotOptimizer, SlotParameters

SIZES = (1, 4, 16, 32)
STEPS = 500  # of one adapter's training, for adapters an hour


class BankTraining:
    """K adapters in training, a batch each a step."""

    def __init__(self, base: Base, slots: int) -> None:
        self.base = base
        spec = setting.adapter_spec(base)
        self.bank = AdapterBank(base.unet, spec, slots)
        for slot in range(slots):
            self.bank.init_(slot, slot)
        self.slots = torch.arange(slots).repeat_interleave(setting.BATCH)
        with torch.no_grad():
            self.x0 = base.encode_images(setting.subject(base).pictures).repeat(slots, 1, 1, 1)
            self.text = base.encode_prompts([f"a photo of a {setting.CLASS_WORD}"]).repeat(len(self.x0))
        groups = [SlotParameters(dict(self.bank.named_parameters()), LEARNING_RATE, 1e-2)]
        self.optimizer = SlotOptimizer(groups, max_norm=1.0)
        self.active = torch.ones(slots, dtype=torch.bool, device=base.device)

    def step(self) -> None:
        """One step of every adapter."""
        noise = torch.randn_like(self.x0)
        t = torch.randint(len(self.base.schedule), (len(self.x0),), device=self.base.device)
        x_t, target = self.base.schedule.add_noise(self.x0, noise, t), self.base.schedule.target(self.x0, noise, t)
        self.bank.attach()
        with self.bank.route(self.slots):
            error = (self.base.predict(x_t, t, self.text) - target) ** 2
            (error.mean(dim=(1, 2, 3)).sum() / setting.BATCH).backward()
        self.bank.detach()
        self.optimizer.step(self.active)
        self.optimizer.zero_grad()


def of_bank(source: str, device: str | None, dtype: str, slots: int) -> torch.device:
    """Two steps of a bank, for its memory."""
    base = load_base(source, device, dtype)
    _twice(BankTraining(base, slots).step)
    return base.device


def of_peft(source: str, device: str | None, dtype: str) -> torch.device:
    """Two steps with PEFT, for their memory."""
    base = load_base(source, device, dtype)
    _twice(DreamBoothLora(with_peft(base, own_attention=True), cached=True).step)
    return base.device


def _twice(step: Callable[[], None]) -> None:
    for _ in range(2):
        step()


def main(
    source: setting.BaseOption = "icons",
    device: setting.Device = None,
    dtype: setting.Dtype = "auto",
    repeats: setting.Repeats = 10,
    quick: setting.Quick = False,
    out: setting.Out = None,
) -> None:
    """Adapters an hour and peak memory."""
    base = load_base(source, device, dtype)
    sizes, repeats = (SIZES[:2], 2) if quick else (SIZES, repeats)
    peft = DreamBoothLora(with_peft(base, own_attention=True), cached=True)
    cases = {f"bank of {k}": BankTraining(base, k).step for k in sizes}
    times = take_turns({"peft": peft.step, **cases}, repeats, base.device)
    rows: Rows = {"peft": {"adapters_per_hour": _per_hour(times["peft"], 1)}}
    rows["peft"]["peak_mib"] = peak_memory(of_peft, source, device, dtype)
    for k in sizes:
        name = f"bank of {k}"
        rows[name] = {
            "adapters_per_hour": _per_hour(times[name], k),
            "peak_mib": peak_memory(of_bank, source, device, dtype, k),
            "time_by_k_peft": ratio(times, name, "peft", k),
        }
    about = {"steps": STEPS, "batch": setting.BATCH, "rank": setting.RANK, "rounds": repeats}
    report("bank", base, rows, about, out)


def _per_hour(step_ms: list[float], adapters: int) -> Estimate:
    return estimate([3.6e6 * adapters / (STEPS * ms) for ms in step_ms])


if __name__ == "__main__":
    setting.run(main)
