"""`palp-serve generate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from palp.cli.options import BaseConfig, BaseName, Device, Dtype, Json, print_json
from palp.settings import MOST_SEED

if TYPE_CHECKING:
    from palp.base import Base
    from serving.pictures import Request
    from serving.prompt_adapters import PromptAdapter
    from serving.subjects.named import NamedSubject


Prompts = Annotated[
    list[str], typer.Option("--prompt", help="What to draw, with [V] for the subject; may be repeated.")
]
Out = Annotated[Path, typer.Option(help="PNG file; several pictures get numbered names.")]
SubjectName = Annotated[
    str | None,
    typer.Option(
        help="Adapter file, run folder, or pictures, which are learned first (and kept); "
        "or a name of palp-serve subjects."
    ),
]
ClassWord = Annotated[
    str | None, typer.Option("--class", help="For pictures: what the base calls such a thing: cat, truck, …")
]
PromptAdapters = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt-adapter",
        metavar="auto|off|FILE",
        help="auto predicts one from each prompt; one for all prompts, or one for each in turn; auto by default.",
    ),
]
HypernetPath = Annotated[
    Path | None,
    typer.Option(help="File or run folder of what predicts; by default the one shipped for the base, if any."),
]
Refine = Annotated[int, typer.Option(min=0, help="Steps of training from the predicted adapter, for each prompt.")]
SubjectScale = Annotated[
    float, typer.Option(help="Strength of the subject's adapter; 1 is what the prompt's adapter and the opening want.")
]
PromptScale = Annotated[float, typer.Option(help="Strength of the prompt adapter.")]
Seeds = Annotated[
    list[int] | None,
    typer.Option("--seed", min=0, max=MOST_SEED, help="Of the noise; may be repeated; 0 by default."),
]
Count = Annotated[int, typer.Option(min=1, help="Pictures a prompt, with seeds that follow on the one given.")]
Grid = Annotated[Path | None, typer.Option(help="PNG file with all pictures: prompts down, seeds across.")]
Steps = Annotated[int, typer.Option(min=1, help="Denoising steps.")]
Guidance = Annotated[
    float | None, typer.Option(help="Classifier-free guidance scale; by default 7.5, and 2.5 on icons.")
]
Opening = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Share of the steps, from noise, that draw the subject as a photo; by default 0, and 0.4 on icons.",
    ),
]
Scheduler = Annotated[Literal["ddim", "dpm++2m", "euler"], typer.Option(help="Sampler.")]


def generate(
    prompt: Prompts,
    out: Out,
    subject: SubjectName = None,
    class_word: ClassWord = None,
    prompt_adapter: PromptAdapters = None,
    hypernet: HypernetPath = None,
    refine: Refine = 0,
    subject_scale: SubjectScale = 1.0,
    prompt_adapter_scale: PromptScale = 1.0,
    seed: Seeds = None,
    count: Count = 1,
    grid: Grid = None,
    steps: Steps = 20,
    guidance: Guidance = None,
    opening: Opening = None,
    scheduler: Scheduler = "ddim",
    base: BaseName = "icons",
    base_config: BaseConfig = None,
    device: Device = None,
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Draw pictures: every prompt with every seed, in one batch."""
    from palp.base.sample import check_steps
    from palp.cli.base import open_base
    from palp.draw import Sampling
    from palp.recipes import guidance_scale, opening_of
    from serving import pictures
    from serving.prompt_adapters import check_refine

    seeds = pictures.seeds_from(seed or [], count)
    paths = pictures.output_paths(out, len(prompt) * len(seeds))
    if grid is not None:
        pictures.check_grid(grid, paths)
    wanted = pictures.one_each(prompt_adapter or ["auto"], prompt)
    scales = pictures.Scales(subject_scale, prompt_adapter_scale)
    if refine:
        check_refine(wanted, subject)
    model = open_base(base, device, dtype, base_config)
    check_steps(model, steps)
    guided = guidance_scale(model.name) if guidance is None else guidance
    sampling = Sampling(steps, guided, scheduler, opening_of(model.name, opening))
    learned, adapters = _adapters(model, prompt, (subject, class_word), wanted, hypernet, refine)
    request = pictures.Request(prompt, seeds, adapters, learned, scales, sampling, model.fingerprint)
    _draw(model, request, paths, grid)
    _say(request, paths, grid, as_json)


def _say(request: Request, paths: list[Path], grid: Path | None, as_json: bool) -> None:
    """What was drawn, and where it is."""
    if as_json:
        drawn = [{"path": str(path), **facts} for path, facts in zip(paths, request.facts(), strict=True)]
        print_json({"pictures": drawn, "grid": None if grid is None else str(grid), "base": request.base})
        return
    for path in [*paths, *([] if grid is None else [grid])]:
        typer.echo(path)


def _adapters(
    base: Base,
    prompts: list[str],
    named: tuple[str | None, str | None],
    wanted: list[str],
    hypernet: Path | None,
    refine: int,
) -> tuple[NamedSubject | None, list[PromptAdapter]]:
    """The subject by name and class word, and the adapter of each prompt; says so where none could be predicted."""
    from palp.cli.progress import steps_bar
    from serving.prompt_adapters import AUTO, open_predictions, prompt_adapters, refined

    name, class_word = named
    asked = name is not None and AUTO in wanted
    predictions = open_predictions(base, hypernet, needed=refine > 0) if asked else None
    subject = None if name is None else _subject(base, name, class_word, prompts)
    adapters = prompt_adapters(base, subject, prompts, wanted, predictions)
    if refine and subject is not None and predictions is not None:
        pairs = zip(prompts, adapters, strict=True)
        adapters = [refined(base, subject, prompt, one, predictions, refine, steps_bar) for prompt, one in pairs]
    if subject is not None or hypernet is not None:
        for said in dict.fromkeys(adapter.said for adapter in adapters if adapter.missed):
            typer.echo(f"no prompt adapter: {said}", err=True)
    return subject, adapters


def _subject(base: Base, name: str, class_word: str | None, prompts: list[str]) -> NamedSubject:
    """The subject, learned under a bar where it has to be."""
    from palp.cli.progress import training_bar
    from palp.learn import Watch
    from serving.subjects.named import find_subject

    with training_bar("learning the subject") as report:
        return find_subject(base, name, class_word, prompts, Watch(report))


def _draw(base: Base, request: Request, paths: list[Path], grid: Path | None) -> None:
    """Draw and write the pictures, and all of them on one sheet where it is asked for."""
    from palp.cli.progress import steps_bar
    from palp.draw import batches_of, draw
    from palp.sheets import save_png, to_images
    from serving.pictures import notes_of, save_grid

    planned = request.plan()
    with steps_bar("drawing", request.sampling.steps * batches_of(base, len(planned))) as advance:
        images = to_images(draw(base, planned, request.sampling, advance))
    for image, path, facts in zip(images, paths, request.facts(), strict=True):
        save_png(image, path, notes_of(facts))
    if grid is not None:
        save_grid(images, request, grid)
