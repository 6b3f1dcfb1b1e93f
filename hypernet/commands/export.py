"""`palp-hyper export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from palp.cli.options import BaseConfig, BaseName, Device, Dtype, Json, print_json

Run = Annotated[Path, typer.Argument(help="Run folder of palp-hyper train, or its hypernet.safetensors.")]
File = Annotated[Path, typer.Option("--out", help="File to write: .onnx, or .safetensors with --prompt.")]
Prompt = Annotated[str | None, typer.Option(help="Write this prompt's adapter, not the network: 'a sketch of [V]'.")]
ClassWord = Annotated[str | None, typer.Option("--class", help="What the base calls the subject; with --prompt.")]
Format = Annotated[
    Literal["diffusers", "kohya", "comfyui"] | None,
    typer.Option("--format", help="Of the adapter's file, with --prompt; diffusers if not given."),
]


def export(
    run: Run,
    out: File,
    prompt: Prompt = None,
    class_word: ClassWord = None,
    layout: Format = None,
    base: BaseName = "icons",
    base_config: BaseConfig = None,
    device: Device = None,
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Write the hypernetwork as an ONNX model, or one prompt's predicted adapter for another program."""
    from hypernet.file import load_hypernet
    from hypernet.learn import hypernet_file
    from palp.errors import InputError

    if (prompt is None) != (class_word is None):
        raise InputError("--prompt and --class belong together: give both for an adapter, none for the network")
    if layout is not None and prompt is None:
        raise InputError(f"--format {layout} is for an adapter, and no --prompt was given: give one, or leave it out")
    suffix = ".onnx" if prompt is None else ".safetensors"
    if out.suffix in {".onnx", ".safetensors"} - {suffix}:
        raise InputError(f"--out {out} was given for what goes into a {suffix} file: name it so, or see --prompt")
    hypernet, _ = load_hypernet(hypernet_file(run))
    if prompt is None or class_word is None:
        from hypernet.export import OnnxHypernet, export_onnx

        difference = export_onnx(hypernet, out)
        providers = OnnxHypernet(out).providers
        result = {"model": str(out), "difference": difference, "providers": providers}
        line = f"{out}: differs from torch by {difference:.1e}; here it runs on {providers[0]}"
    else:
        from hypernet.lora_files import save_lora
        from hypernet.predict import Predictor
        from palp.cli.base import open_base
        from palp.compose import subject_strength

        predictor = Predictor(open_base(base, device, dtype, base_config), hypernet)
        adapter = predictor.predict_adapter(prompt, class_word)
        save_lora(adapter, out, layout or "diffusers")
        strength, reliability = subject_strength(adapter), adapter.metadata["reliability"]
        facts = {"reliability": float(reliability), "subject_scale": strength}
        abstains = not any(bool(up.any()) for up in adapter.up.values())
        result = {"adapter": str(out), "format": layout or "diffusers", **facts, "abstains": abstains}
        line = f"{out}: reliability {reliability}, beside a subject's adapter of strength {strength:g}"
        if abstains:
            line += "; too far from the prompts learned from, so this adapter changes nothing"
    if as_json:
        print_json(result)
    else:
        typer.echo(line)
