"""Corpora from end to end: built, killed, resumed, verified, merged, read."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from palp.atomic import write_json
from palp.base import Base
from palp.corpus import Corpus, open_corpus
from palp.corpus.build import build_part
from palp.corpus.folder import CorpusFolder, Part, only_one
from palp.corpus.manifest import problems
from palp.corpus.merge import merge
from palp.corpus.plan import ExamPlan, Gate, SubjectPlan, read_plan
from palp.corpus.shards import Shard, write_shard
from palp.corpus.stats import sheet, stats
from palp.draw import Picture, Sampling, draw
from palp.errors import CorpusError, InputError
from palp.guidance import RESIDUAL
from tests.commands import PALP_HYPER, invoke, refuses, succeeds
from tests.corpus_building import build, corpus_files, plan_in, quiet, samples
from tests.tiny import tiny_base
from tests.training import tensors_of

MERGED: dict[str, Any] = {"rtol": 0, "atol": 2e-4}
"""Other neighbours in the bank go through the same kernels in other places; see tests/test_train.py."""
KEYS = ["own-00001", "own-00002", "own-00003", "own-00004", "own-00005"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> CorpusFolder:
    """A finished corpus."""
    folder = tmp_path_factory.mktemp("corpus")
    return build(folder / "in", folder / "out")


@pytest.fixture
def copy(whole: CorpusFolder, tmp_path: Path) -> CorpusFolder:
    """One to damage."""
    return CorpusFolder(Path(shutil.copytree(whole.path, tmp_path / "copy")))


def test_a_corpus_of_another_rule_is_not_gone_on_with(copy: CorpusFolder) -> None:
    plan = copy.read_plan()
    prompts = list(open_corpus(copy.path).prompts)
    asked = {name: value for name, value in plan.items() if name != "prompts"}
    copy.begin(asked, prompts)
    with pytest.raises(InputError, match="recipe differ"):
        copy.begin({**asked, "recipe": {**plan["recipe"], "rule": "composed"}}, prompts)


def test_a_finished_corpus_is_what_was_promised(whole: CorpusFolder) -> None:
    corpus = open_corpus(whole.path)
    promised: Corpus = corpus
    assert [prompt.key for prompt in promised.prompts] == KEYS
    assert [prompt.split for prompt in promised.prompts] == ["train"] * 4 + ["word"]
    assert {s.name: s.held_out for s in promised.subjects} == {"cat": False, "hat": True}, "cap is for exams only"
    assert corpus.twins == ("own-00001",)
    assert promised.recipe["rule"] == RESIDUAL
    for key in KEYS:
        adapter = promised.adapter(key)
        assert (adapter.spec, adapter.placeholders, adapter.metadata["name"]) == (promised.spec, {}, key)
        assert all(up.abs().max() > 0 for up in adapter.up.values())
        assert {"gain", "loss", "loss_subject_only", "norm", "steps"} <= promised.metrics(key).keys()
    for subject in promised.subjects:
        assert subject.latents.shape == (2, 4, 8, 8)
        assert subject.adapter.placeholders.keys() == {"[V]"}
    assert not whole.work.exists()
    assert list(problems(whole)) == []


def test_adapters_of_one_seed_began_at_one_point_and_the_twin_elsewhere(whole: CorpusFolder) -> None:
    corpus = open_corpus(whole.path)
    first, second, twin = corpus.adapter(KEYS[0]), corpus.adapter(KEYS[1]), corpus.twin(KEYS[0])
    site = first.spec.sites[0].name
    near, far = ((first.down[site] - other.down[site]).abs().max() for other in (second, twin))
    assert near < 0.5 * far


def test_plain_webdataset_reads_the_shards(whole: CorpusFolder) -> None:
    import webdataset

    urls = [str(whole.shard(number)) for number in (0, 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves the shards to the garbage collector
        rows = list(webdataset.WebDataset(urls, shardshuffle=False))
        gc.collect()
    assert [row["__key__"] for row in rows] == [*KEYS, "own-00001-twin"]
    assert all({"adapter.safetensors", "json", "png"} <= row.keys() for row in rows)


@pytest.mark.parametrize(("what", "killed_after"), [("subjects", 2), ("adapters", 7)])
def test_killed_and_run_again_it_gives_the_same_bytes(
    what: str, killed_after: int, whole: CorpusFolder, tmp_path: Path
) -> None:
    """SIGKILL in another process, while it learns subjects or prompts; then the same again, to the end."""
    source, out = whole.path.parent / "in", tmp_path / "out"
    command = [sys.executable, "-m", "tests.corpus_building", str(source), str(out), "0.0"]
    how = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=how, cwd=root) as process:
        assert process.stdout is not None
        seen = 0
        for line in process.stdout:
            seen += line.startswith(what)
            if seen == killed_after:
                process.kill()
                break
    assert process.returncode == -9
    assert not CorpusFolder(out).manifest.is_file()
    killed, straight = corpus_files(build(source, out)), corpus_files(whole)
    assert killed.keys() == straight.keys()
    assert [name for name in killed if killed[name] != straight[name]] == []


def test_parts_merged_are_one_run(whole: CorpusFolder, tmp_path: Path) -> None:
    source = whole.path.parent / "in"
    parts = []
    for index in (0, 1):
        out = tmp_path / f"part-{index}"
        parts.append(build(source, out, Part(index, 2)))
        assert not parts[-1].manifest.is_file()
    with pytest.raises(CorpusError, match="no part holds corpus-000001"):
        merge([parts[0].path], tmp_path / "half")
    merged = merge([part.path for part in parts], tmp_path / "merged")
    assert list(problems(merged)) == []
    got, expected = samples(merged), samples(whole)
    assert got.keys() == expected.keys()
    for key, shard in expected.items():
        left, right = tensors_of(got[key].adapter(key)), tensors_of(shard.adapter(key))
        for name, tensor in right.items():
            torch.testing.assert_close(left[name], tensor, **MERGED, msg=f"{key} {name}")


def test_parts_in_one_folder_need_no_merge(whole: CorpusFolder, tmp_path: Path) -> None:
    source = whole.path.parent / "in"
    for index in (1, 0):
        build(source, tmp_path / "out", Part(index, 2))
    assert list(problems(CorpusFolder(tmp_path / "out"))) == []
    with pytest.raises(InputError, match="3 builders were asked for, and there are 2 shards"):
        build(source, tmp_path / "out", Part(0, 3))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"subjects": (SubjectPlan("cat", "caat", "cat"),)}, "caat"),
        ({"exams": ExamPlan(every=3, batch=2)}, "rounds of 3 steps"),
        ({"subject_recipe": {"rank": 0}}, "rank is 0"),
        ({"subjects": ()}, "give subjects"),
        ({"shard_size": 6}, "there are 1 shards"),
        ({"prompts": "a sketch of [V] and [V2]"}, "[V2]"),
    ],
)
def test_a_plan_that_cannot_be_built_locks_no_folder(change: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    plan = plan_in(tmp_path / "in")
    if text := change.get("prompts"):
        (tmp_path / "in" / "prompts.jsonl").write_text(json.dumps({"text": text}))
        change = {"shard_size": 1, "twins": 1}
    with pytest.raises(InputError, match=re.escape(sentence)):
        build_part(tiny_base("sd1"), replace(plan, **change), tmp_path / "out", Part(0, 2), quiet)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("gate", "reason"),
    [(Gate(min_gain=2.0, max_norm=100.0), "gain "), (Gate(min_gain=-100.0, max_norm=1e-9), "norm ")],
)
def test_the_gate_rejects_and_keeps_aside(gate: Gate, reason: str, whole: CorpusFolder, tmp_path: Path) -> None:
    folder = build(whole.path.parent / "in", tmp_path / "out", gate=gate)
    corpus = open_corpus(folder.path)
    assert (len(corpus.prompts), len(corpus.rejected)) == (0, 6)
    assert all(text.startswith(reason) for text in corpus.rejected.values())
    assert Shard.open(folder.rejected(0)).adapter(KEYS[0]).metadata["name"] == KEYS[0]
    assert list(problems(folder)) == []
    with pytest.raises(CorpusError, match="all were rejected"):
        _ = corpus.spec
    with pytest.raises(CorpusError, match="no picture to show"):
        sheet(corpus, 4)


def test_an_adapter_that_draws_nothing_finite_is_refused_and_stops_nobody(
    whole: CorpusFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflows(base: Base, pictures: Sequence[Picture], sampling: Sampling) -> torch.Tensor:
        if any("cap" in picture.prompt for picture in pictures):
            raise InputError("the pictures are not finite")
        return draw(base, pictures, sampling)

    monkeypatch.setattr("palp.corpus.build.draw", overflows)
    folder = build(whole.path.parent / "in", tmp_path / "out")
    assert open_corpus(folder.path).rejected == {KEYS[2]: "its picture is not finite"}
    assert list(problems(folder)) == []


def rewrite(folder: CorpusFolder, number: int, change: Any) -> None:
    """Another content of a shard, which the manifest is made to agree with."""
    shard = Shard.open(folder.shard(number))
    kinds = ("adapter.safetensors", "json", "png")
    rows = change([{"__key__": k, **{kind: shard.read(k, kind) for kind in kinds}} for k in shard.keys])
    write_shard(folder.shard(number), rows)
    folder.manifest.unlink()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda rows: rows[1:], "own-00001 is missing from"),
        (lambda rows: [*rows, rows[0]], "own-00001.adapter.safetensors twice"),
        (lambda rows: [*rows, {**rows[0], "__key__": "own-00004"}], "one of them is too many"),
        (lambda rows: [*rows, {**rows[0], "__key__": "other"}], "other in .* is no item of the plan"),
        (lambda rows: [{**rows[0], "adapter.safetensors": rows[1]["adapter.safetensors"]}, *rows[1:]], "holds the"),
        (lambda rows: [{**rows[0], "adapter.safetensors": b"nonsense"}, *rows[1:]], "own-00001 in .* is damaged"),
    ],
)
def test_what_is_wrong_is_found(change: Any, sentence: str, copy: CorpusFolder) -> None:
    rewrite(copy, 0, change)
    import re

    assert any(re.search(sentence, text) for text in problems(copy)), list(problems(copy))


def test_verify_names_damage_and_a_deleted_shard_is_built_again(copy: CorpusFolder, whole: CorpusFolder) -> None:
    assert succeeds(PALP_HYPER, "corpus", "verify", copy.path) == f"{copy.path} is whole\n"
    path = copy.shard(0)
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    assert "is not the file that the manifest names" in refuses(PALP_HYPER, "corpus", "verify", copy.path)
    path.unlink()
    assert "cannot be read" in refuses(PALP_HYPER, "corpus", "verify", copy.path)
    build(whole.path.parent / "in", copy.path)
    assert list(problems(copy)) == []
    for key, shard in samples(whole).items():
        left, right = tensors_of(samples(copy)[key].adapter(key)), tensors_of(shard.adapter(key))
        for name, tensor in right.items():
            torch.testing.assert_close(left[name], tensor, **MERGED, msg=f"{key} {name}")


def test_a_manifest_or_a_record_of_something_else_is_found(copy: CorpusFolder) -> None:
    manifest = json.loads(copy.manifest.read_text())
    for changes, what in (({"shards": manifest["shards"][:1]}, "shards"), ({"recipe": {}}, "recipe")):
        write_json(copy.manifest, {**manifest, **changes})
        assert any(f"has other {what} than the plan" in problem for problem in problems(copy))
    copy.manifest.unlink()
    shard = Shard.open(copy.shard(0))
    kinds = {key: [kind for other, kind in shard.places if other == key] for key in shard.keys}
    written = [{"__key__": key, **{kind: shard.read(key, kind) for kind in kinds[key]}} for key in shard.keys]
    del written[0]["png"]
    written[1]["json"] = json.dumps({**shard.record(shard.keys[1]), "prompt": "another"}).encode()
    write_shard(copy.shard(0), written)
    no_preview, other_prompt = problems(copy)
    assert f"{shard.keys[0]} in {copy.shard(0)} has no preview" in no_preview
    assert f"{shard.keys[1]} in {copy.shard(0)} is of the prompt 'another'" in other_prompt


def test_verify_goes_over_all_whatever_the_manifest_says(copy: CorpusFolder) -> None:
    first, second = copy.shard(0).read_bytes(), copy.shard(1).read_bytes()
    copy.shard(0).write_bytes(second)
    copy.shard(1).write_bytes(first)
    told = invoke(PALP_HYPER, "corpus", "verify", copy.path).stderr
    assert told.count("is not the file that the manifest names") == 2
    copy.manifest.write_text("{}")
    assert "manifest.json is damaged" in invoke(PALP_HYPER, "corpus", "verify", copy.path).stderr
    assert "run `corpus verify`" in refuses(PALP_HYPER, "corpus", "stats", copy.path)


def test_stats_and_sheet(whole: CorpusFolder, tmp_path: Path) -> None:
    values = json.loads(succeeds(PALP_HYPER, "corpus", "stats", whole.path, "--json"))
    assert (values["adapters"], values["twins"], values["rejected"]) == (5, 1, 0)
    assert values == stats(open_corpus(whole.path))
    assert sheet(open_corpus(whole.path), 2).height < sheet(open_corpus(whole.path), 5).height
    succeeds(PALP_HYPER, "corpus", "sheet", whole.path, "--out", tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").is_file()


def test_others_are_refused(copy: CorpusFolder, whole: CorpusFolder, tmp_path: Path) -> None:
    plan = json.loads(copy.plan.read_text())
    plan["plan"]["settings"]["seed"] = 5
    write_json(copy.plan, plan)
    with pytest.raises(InputError, match="a corpus whose settings differ"):
        build(whole.path.parent / "in", copy.path)
    with pytest.raises(CorpusError, match="another plan"):
        merge([whole.path, copy.path], tmp_path / "merged")
    before = copy.plan.read_bytes(), copy.shard(0).read_bytes()
    with pytest.raises(InputError, match="a corpus whose settings differ"):
        merge([whole.path], copy.path)
    assert (copy.plan.read_bytes(), copy.shard(0).read_bytes()) == before
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds no corpus"):
        build(whole.path.parent / "in", tmp_path / "thesis")
    with pytest.raises(CorpusError, match="no finished corpus"):
        open_corpus(tmp_path)
    locked = only_one(tmp_path / "a.lock", wait=False)
    with locked, pytest.raises(InputError, match="another process builds a"):
        only_one(tmp_path / "a.lock", wait=False).__enter__()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("colour: red", "no setting 'colour'"),
        ("prompts: 3", "where names and values of PromptPlan"),
        ("slots: 0", "slots is 0"),
        ("twin_seed: 0", "twins need another seed"),
        ("subjects: [{name: a/b, source: x}]", "use letters, digits"),
        ("subjects: [{name: 1, source: x}]", "name is 1, and must be of type str"),
        ("subjects: [{name: a}]", "source"),
        ("subjects:", "give a list of them"),
        ("recipe: 3", "recipe is 3"),
        ("prompts: {train: '12'}", "train is '12', and must be of type int"),
        ("prompts: {longer: -1}", "longer is -1"),
        ("exams: {every: 0}", "every is 0"),
        ("gate: {max_norm: .nan}", "max_norm is nan"),
        ("shard_size: 1.5", "shard_size is 1.5, and must be of type int"),
        ("twins: -1", "twins is -1"),
        ("seed: -1", "seed is -1"),
        ("exams: {seed: 9223372036854775808}", "seed is 9223372036854775808, and must be from 0 to below 2"),
    ],
)
def test_plans_that_cannot_be_are_a_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(InputError, match=sentence):
        read_plan(tmp_path / "plan.yaml")


def test_numbers_that_are_text_in_yaml_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("gate: {min_gain: 1e-2, max_norm: 1}")
    assert read_plan(tmp_path / "plan.yaml").gate == Gate(0.01, 1.0)


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[1].glob("configs/corpus-*.yaml")), ids=lambda p: p.stem)
def test_shipped_plans_can_be_read_and_leak_nothing(path: Path) -> None:
    plan = read_plan(path)
    counts = plan.prompts
    assert len(counts.prompts()) == counts.train + counts.paraphrase + counts.combination + counts.word + counts.longer
