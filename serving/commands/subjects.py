"""`palp-serve subjects`: add, list, show, remove."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palp.cli.options import BaseConfig, BaseName, Device, Dtype, Json, Set, Steps, given, parse_settings, print_json

if TYPE_CHECKING:
    from palp.base import Base
    from serving.contract import SubjectInfo
    from serving.subjects.records import Record, Shelf

__all__ = ["subjects"]

subjects = typer.Typer(
    name="subjects", help="The subjects that are kept for serving.", no_args_is_help=True, add_completion=False
)

Name = Annotated[str, typer.Argument(help="Of the subject: letters, digits, '-', '_' and '.'.")]
Owner = Annotated[str, typer.Option(help="Whose subjects; a server gives each of its keys an owner.")]
Root = Annotated[
    Path | None, typer.Option(help="Folder of the library; by default palp-hyper/library in the user's data folder.")
]


@subjects.command()
def add(
    name: Name,
    source: Annotated[
        list[Path], typer.Argument(help="Pictures or folders of them; or one adapter or run folder, learned already.")
    ],
    class_word: Annotated[
        str | None, typer.Option("--class", help="What the base calls such a thing; an adapter knows its own.")
    ] = None,
    steps: Steps = None,
    settings: Set = None,
    owner: Owner = "",
    root: Root = None,
    base: BaseName = "icons",
    base_config: BaseConfig = None,
    device: Device = None,
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Learn a subject and keep it; stopped at any moment, the same command goes on."""
    from palp.sources import adapter_file
    from serving.subjects.records import data_folder

    folder = root or data_folder()
    file = adapter_file(source[0]) if len(source) == 1 else None
    if file is not None:
        info = _adopt(folder, owner, name, class_word, file)
    else:
        from palp.cli.base import open_base
        from palp.subjects import find_pictures

        changes = parse_settings(settings) | given(steps=steps)
        pictures = [path.read_bytes() for path in find_pictures(source)]
        model = open_base(base, device, dtype, base_config)
        info = _learn(folder, owner, name, class_word, pictures, model, changes)
    _print([info], as_json)


@subjects.command("list")
def list_all(owner: Owner = "", root: Root = None, as_json: Json = False) -> None:
    """All subjects of an owner, oldest first."""
    from serving.subjects.records import data_folder, list_subjects

    found = list_subjects(root or data_folder(), owner)
    if as_json:
        print_json({"subjects": [asdict(info) for info in found]})
    else:
        _print(found, as_json=False)


@subjects.command()
def show(name: Name, owner: Owner = "", root: Root = None, as_json: Json = False) -> None:
    """One subject."""
    from serving.subjects.records import data_folder, find, info

    _print([info(*find(root or data_folder(), owner, name))], as_json)


@subjects.command()
def remove(name: Name, owner: Owner = "", root: Root = None, as_json: Json = False) -> None:
    """Forget a subject; a process that learns it stops."""
    from serving.subjects import records

    records.remove(root or records.data_folder(), owner, name)
    if as_json:
        print_json({"removed": name})
    else:
        typer.echo(f"removed {name}")


def _adopt(root: Path, owner: str, name: str, class_word: str | None, file: Path) -> SubjectInfo:
    """Keep an adapter that was learned elsewhere."""
    from palp.adapter import Adapter
    from palp.errors import InputError
    from serving.subjects.library import Library

    adapter = Adapter.load(file)
    if len(adapter.placeholders) != 1:
        raise InputError(f"{file} has learned {len(adapter.placeholders)} words: give the adapter of one subject")
    return Library(root).adopt(owner, name, class_word or adapter.metadata.get("class_word", ""), adapter)


def _learn(
    root: Path,
    owner: str,
    name: str,
    class_word: str | None,
    pictures: Sequence[bytes],
    base: Base,
    changes: Mapping[str, Any],
) -> SubjectInfo:
    """Keep the pictures and learn them under a bar, or go on with a learning that was stopped."""
    from palp.cli.progress import training_bar
    from palp.errors import InputError
    from serving.errors import SubjectExistsError, UnknownSubjectError
    from serving.subjects.learning import learn_subject, learning_lock
    from serving.subjects.library import Library
    from serving.subjects.records import find

    library = Library(root, base.resolution)
    try:
        begun = library.show(owner, name).state in ("waiting", "learning")
    except UnknownSubjectError:
        begun = False
    if begun:
        if not _same(*find(root, owner, name), class_word, pictures):
            raise SubjectExistsError(name)
    else:
        if not class_word:
            raise InputError("pictures were given: say what they show with --class, such as --class cat")
        library.add(owner, name, class_word, pictures)
    with learning_lock(root), training_bar(f"learning {name}") as report:
        learn_subject(find(root, owner, name)[0], base, changes, report)
    info = library.show(owner, name)
    if info.error is not None:
        library.remove(owner, name)
        raise InputError(info.error)
    return info


def _same(shelf: Shelf, record: Record, class_word: str | None, pictures: Sequence[bytes]) -> bool:
    """Whether what was given is what waits to be learned; the class word need not be said again."""
    waiting = [path.read_bytes() for path in shelf.uploads.glob("*")]
    return (class_word or record.class_word).strip() == record.class_word and sorted(waiting) == sorted(pictures)


def _print(found: Sequence[SubjectInfo], as_json: bool) -> None:
    """A line a subject, or one as JSON."""
    for info in found:
        if as_json:
            print_json(asdict(info))
        else:
            state = f"learning, {info.progress:.0%}" if info.state == "learning" else info.error or info.state
            count = "1 picture" if info.pictures == 1 else f"{info.pictures} pictures"
            typer.echo(f"{info.name}  {info.class_word}  {count}  {state}")
