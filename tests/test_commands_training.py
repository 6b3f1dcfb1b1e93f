"""train-subject, personalize and inspect: what they write, resume, and refuse."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

import palp.learn
from palp.adapter import Adapter
from palp.errors import InputError, OutputError, PalpError
from palp.guidance import RESIDUAL
from palp.logs import open_logs
from palp.train import Step, Trainer
from tests.commands import PALP_HYPER, files_in, invoke, refuses, succeeds, write_pictures
from tests.tiny import tiny_base, tiny_pipeline

QUICK = ("--batch", 2, "--dtype", "float32", "--samples-every", 0)
PROMPT = "a photo of [V] to"


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> tuple[object, ...]:
    return (*QUICK, "--base", tiny_folder)


@pytest.fixture(scope="module")
def cat(base: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of train-subject."""
    folder = tmp_path_factory.mktemp("subject")
    pictures = write_pictures(folder / "pictures")
    succeeds(PALP_HYPER, "train-subject", pictures, "--class", "cat", "--out", folder / "cat", "--steps", 3, *base)
    return folder / "cat"


def test_train_subject_writes_a_whole_run(base: tuple[object, ...], tmp_path: Path) -> None:
    pictures, out = write_pictures(tmp_path / "pictures"), tmp_path / "cat"
    command = ("train-subject", pictures, "--class", "cat", "--out", out, "--steps", 4, *base, "--samples-every", 2)
    result = json.loads(succeeds(PALP_HYPER, *command, "--json"))
    assert (result["trained"], result["adapter"], result["steps"]) == (True, str(out / "adapter.safetensors"), 4)
    assert files_in(out) == {
        "adapter.safetensors", "settings.json", "V.safetensors", "samples/000002.png", "samples/000004.png",
        "pictures/V/001.png", "pictures/V/002.png",
    }  # fmt: skip
    settings = json.loads((out / "settings.json").read_text())
    assert settings["settings"]["steps"] == 4
    assert settings["settings"]["base"] == tiny_base("sd1").fingerprint
    assert settings["made_with"]["torch"] == torch.__version__
    adapter = Adapter.load(out / "adapter.safetensors")
    assert adapter.placeholders.keys() == {"[V]"}
    assert any(norm > 0 for norm in adapter.norms().values())


def test_what_is_learned_loads_in_plain_diffusers(cat: Path) -> None:
    pipeline = tiny_pipeline("sd1")
    pipeline.load_lora_weights(cat, weight_name="adapter.safetensors")
    pipeline.load_textual_inversion(cat / "V.safetensors")
    vectors = Adapter.load(cat / "adapter.safetensors").placeholders["[V]"]["text_encoder"]
    row = pipeline.tokenizer.convert_tokens_to_ids("[V]")
    assert torch.equal(pipeline.text_encoder.get_input_embeddings().weight[row], vectors[0])


def test_a_finished_run_is_not_done_again(base: tuple[object, ...], cat: Path) -> None:
    before = (cat / "adapter.safetensors").stat().st_mtime_ns
    pictures = cat.parent / "pictures"
    command = ("train-subject", pictures, "--class", "cat", "--out", cat, *base)
    assert succeeds(PALP_HYPER, *command, "--steps", 3).startswith("already learned: ")
    assert (cat / "adapter.safetensors").stat().st_mtime_ns == before
    assert "steps 3, and 4 was asked for" in refuses(PALP_HYPER, *command, "--steps", 4)


@pytest.mark.parametrize("mode", ["joint", "residual"])
def test_a_killed_run_goes_on_bit_for_bit(
    mode: str, base: tuple[object, ...], cat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("personalize", "--subject", cat, "--prompt", PROMPT, "--mode", mode, "--steps", 5, *base)
    succeeds(PALP_HYPER, *command, "--out", tmp_path / "whole")
    monkeypatch.setattr(palp.learn, "CHECKPOINT_S", 0.0)
    advance, steps = Trainer._advance, []

    def killed_in_the_fourth(trainer: Trainer) -> Step:
        steps.append(trainer.step)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return advance(trainer)

    monkeypatch.setattr(Trainer, "_advance", killed_in_the_fourth)
    assert invoke(PALP_HYPER, *command, "--out", tmp_path / "killed").exit_code == 130
    assert "adapter.safetensors" not in files_in(tmp_path / "killed")
    succeeds(PALP_HYPER, *command, "--out", tmp_path / "killed", "--samples-every", 4)  # which changes nothing
    assert steps == [0, 1, 2, 3, 3, 4]
    assert files_in(tmp_path / "killed") == files_in(tmp_path / "whole") | {"samples/000004.png"}
    whole, killed = (Adapter.load(tmp_path / name / "adapter.safetensors") for name in ("whole", "killed"))
    assert (killed.spec, killed.metadata) == (whole.spec, whole.metadata)
    for site in whole.spec.sites:
        assert torch.equal(killed.down[site.name], whole.down[site.name])
        assert torch.equal(killed.up[site.name], whole.up[site.name])
    for word, encoders in whole.placeholders.items():
        assert all(torch.equal(killed.placeholders[word][name], encoders[name]) for name in encoders)


def test_residual_adapters_hold_the_prompt_and_no_words(base: tuple[object, ...], cat: Path, tmp_path: Path) -> None:
    out = tmp_path / "prompt"
    command = ("personalize", "--subject", cat, "--prompt", PROMPT, "--mode", "residual", "--steps", 2, *base)
    succeeds(PALP_HYPER, *command, "--out", out, "--samples-every", 2)
    adapter = Adapter.load(out / "adapter.safetensors")
    assert (adapter.placeholders, adapter.metadata["rule"]) == ({}, RESIDUAL)
    assert "samples/000002.png" in files_in(out)


def test_a_subject_learned_by_another_word_is_v_in_the_residual_form(
    base: tuple[object, ...], cat: Path, tmp_path: Path
) -> None:
    pictures = cat.parent / "pictures"
    learn = ("train-subject", pictures, "--class", "cat", "--placeholder", "V1", "--steps", 1, *base)
    succeeds(PALP_HYPER, *learn, "--out", tmp_path / "one")
    command = ("personalize", "--subject", tmp_path / "one", "--prompt", PROMPT, "--mode", "residual", "--steps", 1)
    succeeds(PALP_HYPER, *command, *base, "--out", tmp_path / "prompt")


def test_several_subjects_and_an_artwork_get_numbered_words(
    base: tuple[object, ...], cat: Path, tmp_path: Path
) -> None:
    art = write_pictures(tmp_path / "art", count=1) / "0.png"
    command = (
        "personalize",
        "--subject",
        cat,
        "--subject",
        cat.parent / "pictures",
        "--class",
        "cat",
        "--class",
        "dog",
    )
    prompt = ("--prompt", "a photo of [V1] and [V2]", "--artwork", art, "--out", tmp_path / "both")
    succeeds(PALP_HYPER, *command, *prompt, "--steps", 2, *base)
    adapter = Adapter.load(tmp_path / "both" / "adapter.safetensors")
    assert adapter.placeholders.keys() == {"[V1]", "[V2]", "[V3]"}
    settings = json.loads((tmp_path / "both" / "settings.json").read_text())["settings"]
    assert settings["subjects"] == ["[V1] cat", "[V2] dog", "[V3] oil painting"]
    assert (settings["alpha"], settings["beta"]) == (7.5, 1.0)  # of the paper, for compositions


def test_options_and_set_reach_the_settings(base: tuple[object, ...], cat: Path, tmp_path: Path) -> None:
    options = ("--rule", "sds", "--alpha", 3, "--lr", 1e-3, "--seed", 7, "--set", "min_snr=5", "--flip")
    command = ("personalize", "--subject", cat, "--prompt", PROMPT, "--out", tmp_path / "out", "--steps", 1)
    succeeds(PALP_HYPER, *command, *options, *base)
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())["settings"]
    expected = {"rule": "sds", "alpha": 3.0, "lr": 1e-3, "seed": 7, "min_snr": 5.0}
    assert {name: settings[name] for name in expected} == expected


def test_set_stands_where_the_option_of_that_name_was_not_given(base: tuple[object, ...], cat: Path) -> None:
    out, settings = cat.parent / "set", ("--set", "rank=3", "--set", "steps=9", "--set", "clip=null", "--steps", 1)
    succeeds(PALP_HYPER, "train-subject", cat.parent / "pictures", "--class", "cat", "--out", out, *settings, *base)
    found = json.loads((out / "settings.json").read_text())["settings"]
    assert (found["rank"], found["steps"], found["clip"]) == (3, 1, None)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (("pretrain-base", "--device", "foo"), "got device 'foo'"),
        (("evaluate-base", "--out", "sheet.png"), "give a .json file"),
        (("evaluate-base", "--out", "."), "give a .json file"),
        (("evaluate-base", "--guidance", "nan"), "the guidance scale is nan, and must be finite"),
    ],
)
def test_what_cannot_be_is_refused_before_the_work(command: tuple[str, ...], sentence: str) -> None:
    assert sentence in refuses(PALP_HYPER, *command)


def test_a_seed_is_of_64_bits(cat: Path) -> None:
    done = invoke(PALP_HYPER, "train-subject", cat, "--class", "cat", "--out", cat, "--seed", 10**20)
    assert (done.exit_code, "--seed" in done.stderr) == (2, True)


def test_logs_do_not_go_into_a_file(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("mine")
    with pytest.raises(OutputError, match="logs cannot go to"):
        open_logs(tmp_path / "logs")


def test_inspect_tells_what_is_in_a_file(cat: Path) -> None:
    file = cat / "adapter.safetensors"
    description = json.loads(succeeds(PALP_HYPER, "inspect", file, "--json"))
    adapter = Adapter.load(file)
    assert description["base"] == adapter.spec.base
    assert {site["name"]: site["norm"] for site in description["sites"]} == pytest.approx(adapter.norms())
    assert description["placeholders"] == {"[V]": {"text_encoder": [1, 32]}}
    text = succeeds(PALP_HYPER, "inspect", cat)
    assert all(word in text for word in (adapter.spec.base, "cat", "[V]", adapter.spec.sites[0].name))


def corrupt(folder: Path) -> Path:
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot a picture")
    return folder / "broken.png"


def enormous(folder: Path) -> Path:
    Image.new("1", (30_000, 30_000)).save(folder / "bomb.png")
    return folder / "bomb.png"


def empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (corrupt, "broken.png cannot be read as a picture"),
        (enormous, "bomb.png has more than 50 megapixels"),
        (empty, "there is no picture in"),
        (lambda folder: folder / "nowhere", "there is no picture or folder"),
    ],
)
def test_bad_pictures_are_a_sentence_and_leave_nothing(
    make: Callable[[Path], Path], sentence: str, base: tuple[object, ...], tmp_path: Path
) -> None:
    source, out = make(tmp_path), tmp_path / "out"
    command = ("train-subject", source, "--class", "cat", "--out", out, *base)
    assert sentence in refuses(PALP_HYPER, *command)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--prompt", "a photo of cat"), "does not name the subject: write [V]"),
        (("--prompt", "a photo of [W] and [V]"), "names [W], and the learned words are: [V]"),
        (("--prompt", PROMPT, "--rule", "magic"), "no guidance rule 'magic'"),
        (("--prompt", PROMPT, "--rule", "composed"), "works on a frozen subject adapter"),
        (("--prompt", PROMPT, "--set", "lr"), "needs NAME=VALUE"),
        (("--prompt", PROMPT, "--set", "colour=red"), "no setting 'colour'"),
        (("--prompt", "a sketch of [V] in a caf\udce9"), "is not UTF-8"),
        (("--prompt", PROMPT, "--set", "t_min=2"), "t_min is 2.0"),
        (("--prompt", PROMPT, "--class", "cat", "--class", "dog"), "2 class words were given for 1 subjects"),
        (("--prompt", PROMPT, "--base", "/nowhere/base"), "got base '/nowhere/base'"),
    ],
)
def test_bad_requests_are_a_sentence_and_leave_nothing(
    options: tuple[str, ...], sentence: str, base: tuple[object, ...], cat: Path, tmp_path: Path
) -> None:
    command = ("personalize", "--subject", cat, "--out", tmp_path / "out", *base)
    assert sentence in refuses(PALP_HYPER, *command, *options)
    assert not (tmp_path / "out").exists()


def test_words_that_are_paths_are_refused(base: tuple[object, ...], cat: Path, tmp_path: Path) -> None:
    command = ("train-subject", cat.parent / "pictures", "--class", "cat", "--placeholder", "../../V", *base)
    assert "cannot be a placeholder" in refuses(PALP_HYPER, *command, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_files_are_never_written_over(base: tuple[object, ...], cat: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    command = ("train-subject", cat.parent / "pictures", "--class", "cat", "--out", tmp_path, *base)
    assert "holds no run of ours" in refuses(PALP_HYPER, *command)
    assert files_in(tmp_path) == {"thesis.txt"}


def test_pictures_without_a_class_word_and_adapters_without_pictures(
    base: tuple[object, ...], cat: Path, tmp_path: Path
) -> None:
    command = ("personalize", "--prompt", PROMPT, "--out", tmp_path / "out", *base, "--subject")
    assert "--class" in refuses(PALP_HYPER, *command, cat.parent / "pictures")
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((cat / "adapter.safetensors").read_bytes())
    assert "are not beside it" in refuses(PALP_HYPER, *command, alone)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_nothing_half_written(
    base: tuple[object, ...], cat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name == "adapter.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    command = ("train-subject", cat.parent / "pictures", "--class", "cat", "--out", tmp_path / "out", *base)
    assert "no space is left on the disk" in refuses(PALP_HYPER, *command, "--steps", 1)
    assert not any("tmp" in name or "adapter" in name for name in files_in(tmp_path / "out"))


def test_a_loss_that_is_not_finite_ends_the_run_with_its_step(
    base: tuple[object, ...], cat: Path, tmp_path: Path
) -> None:
    command = ("train-subject", cat.parent / "pictures", "--class", "cat", "--out", tmp_path / "out", *base)
    sentence = refuses(PALP_HYPER, *command, "--steps", 8, "--lr", 1e30, "--set", "clip=1e30")
    assert "was not finite in step" in sentence
    assert "adapter.safetensors" not in files_in(tmp_path / "out")


@pytest.mark.parametrize(("name", "sentence"), [("photo.heic", "a kind that is not read"), ("x" * 300, "there is no")])
def test_other_formats_and_endless_names_are_no_subject(name: str, sentence: str, tmp_path: Path) -> None:
    from palp.sources import adapter_file

    if len(name) < 100:
        (tmp_path / name).write_bytes(b"ftypheic")
    with pytest.raises(InputError, match=sentence):
        adapter_file(tmp_path / name)


def test_an_unfinished_run_is_no_subject(tmp_path: Path, tiny_folder: Path) -> None:
    from palp.sources import adapter_file

    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(PalpError, match="not finished"):
        adapter_file(tmp_path)
