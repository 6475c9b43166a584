"""The project's shape and style, as tests: each message names the file and what to do about it."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import sessionfs_s3

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sessionfs_s3"

FILE_LINES_MAX = 450
FUNCTION_LINES_MAX = 60

TOP_LEVEL = {
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "benchmarks",
    "docker",
    "docs",
    "pyproject.toml",
    "sessionfs_s3",
    "tests",
    "uv.lock",
}
TOP_LEVEL_REQUIRED = TOP_LEVEL - {"benchmarks", "docker"}

# Written in pieces, so that this file does not contain what it looks for.
MACHINE_PATHS = ["/" + name + "/" for name in ("work", "root/.cache", "root/.npm", "root/.pyenv")]
REGISTRY_HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("yarnpkg", "com"),
        ("debian", "org"),
        ("golang", "org"),
        ("crates", "io"),
        ("docker", "io"),
        ("ghcr", "io"),
    )
]


def test_files_are_short() -> None:
    long = {_name(path): lines for path in _modules() if (lines := len(_lines(path))) > FILE_LINES_MAX}
    assert not long, f"over {FILE_LINES_MAX} lines, split by what each part does: {long}"


def test_functions_are_short() -> None:
    long = {
        f"{_name(path)}:{node.lineno} {node.name}": lines
        for path in _modules()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    }
    assert not long, f"over {FUNCTION_LINES_MAX} lines, move a step of it into a function with a name: {long}"


def test_every_package_says_what_it_is() -> None:
    folders = {path.parent for path in _modules()}
    silent = [
        _name(folder / "__init__.py")
        for folder in sorted(folders)
        if not (init := folder / "__init__.py").is_file() or not ast.get_docstring(ast.parse(init.read_text("utf-8")))
    ]
    assert not silent, f"write a docstring at the top that says what the package does and may touch: {silent}"


def test_the_top_level_holds_only_what_it_may() -> None:
    present = {name.split("/")[0] for name in _tracked()}
    extra = sorted(name for name in present - TOP_LEVEL if not name.startswith("."))
    assert not extra, f"move these into a folder that is there, or ignore them: {extra}"
    missing = sorted(TOP_LEVEL_REQUIRED - present)
    assert not missing, f"commit these, which the project's shape asks for: {missing}"


def test_no_file_names_a_machine_or_a_registry() -> None:
    found = [
        f"{name}: {needle}"
        for name in _tracked()
        for needle in [*MACHINE_PATHS, *REGISTRY_HOSTS]
        if needle.encode() in (ROOT / name).read_bytes()
    ]
    assert not found, f"write a relative path, or leave the choice to the machine's own settings: {found}"


def test_the_lock_names_no_index_and_every_hash() -> None:
    text = (ROOT / "uv.lock").read_text("utf-8")
    assert "://" not in text, "run `make lock`, which takes the index out of uv.lock"
    for package in tomllib.loads(text)["package"]:
        if "registry" in package["source"]:
            files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
            assert files, f"{package['name']}: nothing to install in uv.lock, run `make lock`"
            assert all(file["hash"].startswith("sha256:") for file in files), f"{package['name']}: a file without hash"


def test_the_version_is_the_newest_of_the_changelog() -> None:
    released = re.findall(
        r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d{2}-\d{2}$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE
    )
    assert released, "CHANGELOG.md: head each release as '## [1.2.3] - 2026-01-31'"
    assert released == sorted(released, key=lambda version: [int(part) for part in version.split(".")], reverse=True), (
        "CHANGELOG.md: the newest release comes first"
    )
    assert sessionfs_s3.__version__ == released[0], "sessionfs_s3/__init__.py and CHANGELOG.md name different versions"


def _modules() -> list[Path]:
    """Return every Python file of the package."""
    modules = sorted(PACKAGE.rglob("*.py"))
    assert modules, f"no Python files in {PACKAGE}"
    return modules


def _tracked() -> list[str]:
    """Return the files that git tracks or would add, relative to the root, those deleted in the tree left out."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: what belongs to the project is what git tracks")
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    output = subprocess.run(listed, capture_output=True, check=True, text=True).stdout
    return [name for name in output.split("\0") if name and (ROOT / name).is_file()]


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
