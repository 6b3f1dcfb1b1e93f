"""`palp-hyper train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palp.cli.options import BaseConfig, BaseName, Device, Dtype, Json, Out, Seed, Set, Tensorboard, parse_settings

Corpus = Annotated[Path, typer.Argument(help="Folder of a corpus of prompt adapters, from palp-hyper build-corpus.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Optimiser steps, at most; it stops early on its own.")]
SamplesEvery = Annotated[int, typer.Option(min=0, help="Steps between sheets of pictures in samples/; 0 for none.")]


def train(
    corpus: Corpus,
    out: Out,
    steps: Steps = None,
    settings: Set = None,
    seed: Seed = 0,
    samples_every: SamplesEvery = 1000,
    tensorboard: Tensorboard = None,
    base: BaseName = "icons",
    base_config: BaseConfig = None,
    device: Device = None,
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Learn to predict a prompt's adapter from its text. Stopped at any moment, the same command goes on.

    On several GPUs: accelerate launch -m hypernet train … with --device left out.
    """
    from dataclasses import fields

    from hypernet.config import HyperConfig
    from hypernet.learn import learn_hypernet
    from hypernet.proxies import Proxies
    from hypernet.settings import HyperSettings
    from palp.cli.base import open_base
    from palp.cli.options import print_json
    from palp.cli.progress import training_bar
    from palp.corpus import open_corpus
    from palp.learn import Watch
    from palp.settings import check_names

    values = {"steps": steps, "seed": seed, **parse_settings(settings)}
    check_names(values, [field.name for kind in (HyperConfig, HyperSettings) for field in fields(kind)])
    sizes = {field.name: values.pop(field.name) for field in fields(HyperConfig) if field.name in values}
    config = HyperConfig.from_mapping(sizes)
    chosen = HyperSettings.from_mapping({name: value for name, value in values.items() if value is not None})
    model = open_base(base, device, dtype, base_config)

    def validated(done: int, proxies: Proxies) -> None:
        typer.echo(
            f"step {done}: held-out gain in the recipe's loss {proxies.recipe_gain:.3f} (corpus "
            f"{proxies.recipe_gain_of_corpus:.3f}, another prompt's {proxies.recipe_gain_of_other:.3f}); of what the "
            f"corpus' adapters do {proxies.gain:.3f} (mean adapter {proxies.gain_of_mean:.3f})",
            err=True,
        )

    with training_bar("learning to predict") as report:
        watch = Watch(report, samples_every, tensorboard)
        path = learn_hypernet(model, open_corpus(corpus), config, chosen, out, watch, validated)
    if as_json:
        print_json({"hypernet": str(path), "base": model.fingerprint})
    else:
        typer.echo(f"hypernetwork: {path}")
