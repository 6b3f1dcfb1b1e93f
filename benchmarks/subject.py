"""Learning a subject: our trainer against diffusers' DreamBooth-LoRA recipe, step by step.

Ours also learns the word [V] through the text encoder, which the recipe does not; it caches latents and fixed prompts,
which the recipe does not do by default. `recipe_cached` is the recipe with both cached.
"""

from __future__ import annotations

from benchmarks import setting
from benchmarks.measure import milliseconds, ratio, report, take_turns
from benchmarks.peers import DreamBoothLora, with_peft
from palp.base import load_base
from palp.train import Trainer, joint_job


def main(
    source: setting.BaseOption = "icons",
    device: setting.Device = None,
    dtype: setting.Dtype = "auto",
    repeats: setting.Repeats = 30,
    quick: setting.Quick = False,
    out: setting.Out = None,
) -> None:
    """Time a step of either."""
    base = load_base(source, device, dtype)
    repeats = 2 if quick else repeats
    job = joint_job(base, [setting.subject(base)])
    settings = setting.train_settings(base, repeats + 1)
    ours = Trainer(base, [job], settings).run()
    recipe, cached = (DreamBoothLora(with_peft(base, own_attention=False), cached) for cached in (False, True))
    cases = {"ours": lambda: next(ours), "recipe": recipe.step, "recipe_cached": cached.step}
    times = take_turns(cases, repeats, base.device)
    rows = milliseconds(times)
    for peer in ("recipe", "recipe_cached"):
        rows[peer]["ours_by_this"] = ratio(times, "ours", peer)
    report("subject", base, rows, {"batch": setting.BATCH, "rank": setting.RANK, "rounds": repeats}, out)


if __name__ == "__main__":
    setting.run(main)
