"""`palp-serve generate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from palp.cli.options import BaseConfig, BaseName, Device, Dtype, Json, print_json

if TYPE_CHECKING:
    from palp.adapter import Adapter
    from palp.base import Base


def generate(
    prompt: Annotated[list[str], typer.Option(help="What to draw, with [V] for the subject; may be repeated.")],
    out: Annotated[Path, typer.Option(help="PNG file; several pictures get numbered names.")],
    subject: Annotated[
        Path | None,
        typer.Option(help="Adapter file, run folder, or folder of pictures, which is learned first (and kept)."),
    ] = None,
    class_word: Annotated[
        str | None, typer.Option("--class", help="For pictures: what the base calls such a thing: cat, truck, …")
    ] = None,
    adapter: Annotated[
        list[Path] | None, typer.Option(help="Prompt adapter: one for all prompts, or one for each in turn.")
    ] = None,
    subject_scale: Annotated[float, typer.Option(help="Strength of the subject's adapter.")] = 1.0,
    adapter_scale: Annotated[float, typer.Option(help="Strength of the prompt adapter.")] = 1.0,
    seed: Annotated[
        list[int] | None,
        typer.Option(min=0, max=2**63 - 1, help="Of the noise; may be repeated.  [default: 0]"),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 20,
    guidance: Annotated[
        float | None, typer.Option(help="Classifier-free guidance scale.  [default: 7.5; 4 on icons]")
    ] = None,
    scheduler: Annotated[Literal["ddim", "dpm++2m", "euler"], typer.Option(help="Sampler.")] = "ddim",
    base: BaseName = "icons",
    base_config: BaseConfig = None,
    device: Device = None,
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Draw pictures: every prompt with every seed, in one batch."""
    from palp.cli.base import open_base
    from palp.cli.progress import steps_bar
    from palp.draw import Sampling, batches_of, draw
    from palp.recipes import guidance_scale
    from palp.sheets import save_png, to_images
    from palp.sources import load_adapter
    from serving.pictures import Request, notes, output_paths, plan

    seeds, files = seed or [0], adapter or []
    paths = output_paths(out, len(prompt) * len(seeds))
    model = open_base(base, device, dtype, base_config)
    sampling = Sampling(steps, guidance_scale(model.name) if guidance is None else guidance, scheduler)
    learned = None if subject is None else _subject(model, subject, class_word, prompt)
    prompt_adapters = [load_adapter(model, file) for file in files]
    pictures = plan(Request(prompt, seeds, learned, prompt_adapters, subject_scale, adapter_scale))
    with steps_bar("drawing", steps * batches_of(len(pictures))) as advance:
        images = to_images(draw(model, pictures, sampling, advance))
    for index, (picture, image, path) in enumerate(zip(pictures, images, paths, strict=True)):
        used = [] if subject is None else [f"{subject} × {subject_scale:g}"]
        if files:
            used.append(f"{files[0] if len(files) == 1 else files[index // len(seeds)]} × {adapter_scale:g}")
        save_png(image, path, notes(picture, sampling, model.fingerprint, used))
    if as_json:
        print_json({"pictures": [str(path) for path in paths], "base": model.fingerprint})
    else:
        for path in paths:
            typer.echo(path)


def _subject(base: Base, source: Path, class_word: str | None, prompts: list[str]) -> Adapter:
    """The subject's adapter. Prompts are checked before pictures are learned, for that takes minutes."""
    from palp.cli.progress import training_bar
    from palp.learn import Watch
    from palp.sources import adapter_file, learned_subject
    from palp.words import check_words

    if adapter_file(source) is None:
        for prompt in prompts:
            check_words(prompt, {"[V]"})
    with training_bar("learning the subject") as report:
        return learned_subject(base, source, class_word, Watch(report))
