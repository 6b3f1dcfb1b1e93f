"""Rules for the project as a whole: import direction, safe loading, exported names, console scripts."""

from __future__ import annotations

import ast
import importlib
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import palp.errors
from palp.errors import PalpError
from palp.provenance import _commit

ROOT = Path(__file__).parent.parent
PACKAGES = ("palp", "hypernet", "serving")  # each may import itself and those before it
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
UNSAFE_MODULES = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_ARGUMENTS = {("weights_only", False), ("allow_pickle", True), ("trust_remote_code", True)}


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(tree: ast.AST, package: str) -> Iterator[str]:
    """The top-level names of what is imported anywhere in the file; `package` for relative imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield package if node.level or node.module is None else node.module.split(".")[0]


def unsafe_loads(tree: ast.AST) -> Iterator[str]:
    """Calls that could run code from a file: torch.load unless it says weights_only=True, and such flags."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        flags = {k.arg: k.value.value for k in node.keywords if k.arg and isinstance(k.value, ast.Constant)}
        yield from (f"line {node.lineno}: {flag}" for flag in UNSAFE_ARGUMENTS & set(flags.items()))
        if ast.unparse(node.func) == "torch.load" and flags.get("weights_only") is not True:
            yield f"line {node.lineno}: torch.load"


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_imports_go_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    forbidden = {*PACKAGES[PACKAGES.index(package) + 1 :], "tests"}
    assert forbidden.isdisjoint(imported(ast.parse(path.read_text(encoding="utf-8")), package))


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_no_file_loads_what_could_run_code(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert UNSAFE_MODULES.isdisjoint(imported(tree, ""))
    assert list(unsafe_loads(tree)) == []


@pytest.mark.parametrize("code", ["torch.load(f)", "x.load(f, weights_only=False)", "numpy.load(f, allow_pickle=True)"])
def test_the_search_for_unsafe_loads_finds_them(code: str) -> None:
    assert list(unsafe_loads(ast.parse(code))) != []
    assert list(unsafe_loads(ast.parse("torch.load(f, weights_only=True); numpy.load(f)"))) == []


@pytest.mark.parametrize("path", [p for p in SOURCES if p.stem != "__main__"], ids=label)
def test_exported_names_exist(path: Path) -> None:
    module = importlib.import_module(module_name(path))
    exported = getattr(module, "__all__", [])
    assert sorted(set(exported)) == sorted(exported)
    assert [name for name in exported if not hasattr(module, name)] == []


def test_console_scripts_resolve() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(project["scripts"]) == {"palp-hyper", "palp-serve"}
    for target in project["scripts"].values():
        module, attribute = target.split(":")
        assert callable(getattr(importlib.import_module(module), attribute))


def test_the_commit_of_somebodys_repository_is_not_ours(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    (tmp_path / "provenance.py").touch()
    git("init")
    git("commit", "--allow-empty", "-m", "theirs")
    assert _commit(tmp_path) == "unknown"
    git("add", ".")
    git("commit", "-m", "tracked")
    assert len(_commit(tmp_path)) == 12


def test_every_error_is_exported_and_in_the_drawn_tree() -> None:
    errors = {name for name, value in vars(palp.errors).items() if isinstance(value, type)}
    assert errors == set(palp.errors.__all__)
    assert all(issubclass(getattr(palp.errors, name), PalpError) for name in errors)
    assert palp.errors.__doc__ is not None
    assert errors <= set(palp.errors.__doc__.replace("─", " ").split())
