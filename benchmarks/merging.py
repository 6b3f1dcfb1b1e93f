"""One picture's adapter added into the base's weights, against the same adapter in its slot: how many steps pay for it.

Both have the text's keys and values made beforehand. The merged weights stand beside the base's own, which come back as
they were. A merge that is dearer than what it saves over a picture's steps has no place in the engine.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks import setting
from benchmarks.measure import Rows, milliseconds, ratio, report, take_turns
from palp.bank import AdapterBank
from palp.base import Base, load_base
from palp.evaluate.intervals import estimate
from palp.merge import Merge

ROWS = 2  # of one picture, with guidance


@torch.no_grad()
def cases(base: Base, bank: AdapterBank) -> dict[str, Callable[[], object]]:
    """What takes turns."""
    merge = Merge(base.unet, bank, {site.name for site in base.sites("cross-kv")})
    slots = torch.zeros(ROWS, dtype=torch.long)
    x_t = torch.randn(ROWS, *base.latent_shape, device=base.device)
    t = torch.full((ROWS,), 500, device=base.device)
    with bank.route(slots):
        text = base.project(base.encode_prompts(["", setting.PROMPT]))

    def step() -> None:
        base.predict(x_t, t, text)

    def step_in_slot() -> None:
        with bank.route(slots):
            step()

    def merge_and_restore() -> None:
        merge.merge(0)
        merge.restore()

    def merged_step() -> None:
        merge.merge(0)
        step()
        merge.restore()

    return {"bare": step, "in a slot": step_in_slot, "merge and restore": merge_and_restore, "merged": merged_step}


@torch.no_grad()
def main(
    source: setting.BaseOption = "icons",
    device: setting.Device = None,
    dtype: setting.Dtype = "auto",
    repeats: setting.Repeats = 30,
    quick: setting.Quick = False,
    out: setting.Out = None,
) -> None:
    """Time a step in each form, and the merge."""
    base = load_base(source, device, dtype)
    repeats = 2 if quick else repeats
    adapter = setting.random_adapter(base)
    bank = AdapterBank(base.unet, adapter.spec, 1).attach()
    bank.write(0, adapter)
    times = take_turns(cases(base, bank), repeats, base.device)
    times["merged"] = [both - merge for both, merge in zip(times["merged"], times["merge and restore"], strict=True)]
    rows: Rows = milliseconds(times)
    for name in ("in a slot", "merged"):
        rows[name]["by_bare"] = ratio(times, name, "bare")
    rows["merge and restore"]["by_bare"] = ratio(times, "merge and restore", "bare")
    saved = sum(times["in a slot"]) - sum(times["merged"])
    rows["merge and restore"]["pays_after_steps"] = estimate([sum(times["merge and restore"]) / saved])
    report("merging", base, rows, {"rank": setting.RANK, "rows": ROWS, "rounds": repeats}, out)


if __name__ == "__main__":
    setting.run(main)
