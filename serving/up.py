"""`palp-serve up` and `palp-serve new-key`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palp.cli.options import BaseConfig, BaseName, Device, Dtype

__all__ = ["new_key", "up"]

Keys = Annotated[Path | None, typer.Option(help="File of keys, made by new-key; without it there is a single user.")]
Host = Annotated[str, typer.Option(help="Address to listen on; by default only this machine can reach it.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 for any free one.")]
Hypernet = Annotated[
    Path | None,
    typer.Option(help="File or run folder of what predicts; by default the one shipped for the base, if any."),
]
PromptAdapters = Annotated[
    Path | None, typer.Option(help="Folder of prompt adapters, NAME.safetensors, which requests may name.")
]
Subjects = Annotated[
    Path | None, typer.Option(help="Folder that subjects are kept in; by default in the user's data folder.")
]
BatchSize = Annotated[int, typer.Option("--batch", min=1, help="Pictures drawn at once.")]
MaxQueue = Annotated[int, typer.Option(min=1, help="Pictures that may wait.")]
MaxActive = Annotated[int, typer.Option(min=1, help="Pictures that one key may have waiting or being drawn.")]
MaxUploads = Annotated[int, typer.Option(min=1, help="Uploads that one key may have at once.")]
MaxUploadMib = Annotated[int, typer.Option(min=1, help="Size of an upload, MiB.")]
MaxSubjects = Annotated[int, typer.Option(min=1, help="Subjects that one key may keep.")]
MaxSteps = Annotated[int, typer.Option(min=1, help="Denoising steps that a request may ask for.")]
DrainS = Annotated[float, typer.Option(min=0, help="Seconds to finish accepted pictures in when told to stop.")]
LogPrompts = Annotated[bool, typer.Option("--log-prompts", help="Write prompts into the log too.")]


def up(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    keys: Keys = None,
    hypernet: Hypernet = None,
    prompt_adapters: PromptAdapters = None,
    subjects: Subjects = None,
    batch: BatchSize = 8,
    max_queue: MaxQueue = 64,
    max_active: MaxActive = 16,
    max_uploads: MaxUploads = 2,
    max_upload_mib: MaxUploadMib = 32,
    max_subjects: MaxSubjects = 100,
    max_steps: MaxSteps = 150,
    drain_s: DrainS = 60.0,
    log_prompts: LogPrompts = False,
    base: BaseName = "icons",
    base_config: BaseConfig = None,
    device: Device = None,
    dtype: Dtype = "auto",
) -> None:
    """Serve over HTTP: OpenAI's and A1111's interfaces, and a web page. Logs are lines of JSON on standard error."""
    from palp.cli.base import open_base
    from serving.engine import build_engine
    from serving.http import HttpSettings, serve
    from serving.subjects.learning import Teaching

    settings = HttpSettings(
        base=Path(base).stem or "base",
        host=host,
        port=port,
        keys=keys,
        max_active=max_active,
        max_uploads=max_uploads,
        max_upload_bytes=max_upload_mib * 1024 * 1024,
        max_subjects=max_subjects,
        max_steps=max_steps,
        drain_s=drain_s,
        log_prompts=log_prompts,
    )
    model = open_base(base, device, dtype, base_config)
    teaching = Teaching(base, device, dtype, base_config)
    engine = build_engine(
        model,
        teaching,
        hypernet=hypernet,
        prompt_adapters=prompt_adapters,
        subjects=subjects,
        batch=batch,
        waiting=max_queue,
    )
    try:
        serve(engine, settings, lambda url: typer.echo(f"serving on {url}"))
    finally:
        engine.subjects.close()


def new_key(
    owner: Annotated[str, typer.Argument(help="Whose key it is: letters, digits, - and _.")],
    keys: Annotated[Path, typer.Option(help="File of keys, for `up --keys`.")],
) -> None:
    """Make a key for a caller of `up`, and print it: only its hash is kept."""
    from serving.http.keys import add_key

    typer.echo(add_key(keys, owner))
