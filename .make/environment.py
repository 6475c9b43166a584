"""Makes .venv hold exactly what uv.lock names, and re-makes uv.lock; run by make, never imported.

The committed uv.lock names no package index: versions and hashes say what to install, and the machine says where from
(its own uv or pip settings, else the default), so that a mirror works unchanged. uv reads such a lock as one of a local
directory: `uv lock --check`, `uv export` and `uv tree` work on it as it stands; only `uv sync` and `uv run` would look
for that directory. So .venv is made from `uv export` by `uv pip sync --require-hashes`, which takes nothing else.

Needs Python >= 3.11 and nothing more: uv itself is installed from the lock, hashes included. Writes .venv, .cache and
uv.lock under the current directory.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

LOCK = Path("uv.lock")
VENV = Path(".venv")
CACHE = Path(".cache")
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
# What .venv was made from: another interpreter or another place on disk means another environment.
ORIGIN = VENV / "origin"
# The name under which the lock's packages stand instead of the index they were resolved from.
INDEX = "the-machines-own-index"


def main(arguments: list[str]) -> None:
    """Run `install`, or `lock` with further arguments for `uv lock`."""
    match arguments:
        case ["install"]:
            bring_uv()
            install()
        case ["lock", *options]:
            bring_uv()
            lock(options)
        case _:
            sys.exit("usage: environment.py install | lock [uv lock options, as --upgrade-package NAME]")


def bring_uv() -> None:
    """Create .venv with the locked uv in it, unless it is there, made by this interpreter in this place."""
    origin = f"{sys.version}\n{sys.base_prefix}\n{VENV.absolute()}\n"
    uv = BIN / "uv"
    if uv.exists() and ORIGIN.is_file() and ORIGIN.read_text() == origin:
        return
    if VENV.exists():
        shutil.rmtree(VENV)
    run([sys.executable, "-m", "venv", str(VENV)], "on Debian and Ubuntu, install python3-venv")
    CACHE.mkdir(exist_ok=True)
    requirement = CACHE / "uv.txt"
    requirement.write_text(locked_requirement("uv"))
    run([str(BIN / "python"), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(requirement)])
    ORIGIN.write_text(origin)


def locked_requirement(name: str) -> str:
    """Return *name* as uv.lock pins it, in the form of a requirements file: its version and every file's hash."""
    package = next(p for p in tomllib.loads(LOCK.read_text())["package"] if p["name"] == name)
    hashes = [file["hash"] for file in [*package["wheels"], *([package["sdist"]] if "sdist" in package else [])]]
    return " \\\n    ".join([f"{name}=={package['version']}", *(f"--hash={each}" for each in hashes)]) + "\n"


def install() -> None:
    """Install what uv.lock names, no more and no less, and this package itself in editable form."""
    requirements = CACHE / "requirements.txt"
    # Whether the lock fits pyproject.toml depends on these two files alone: no index is asked.
    alone = ["--locked", "--offline", "--default-index", f"./{INDEX}"]
    hint = "pyproject.toml and uv.lock disagree: run `make lock`"
    run_uv("export", "--quiet", *alone, "--no-emit-project", "--output-file", str(requirements), hint=hint)
    run_uv("pip", "sync", "--quiet", "--require-hashes", str(requirements))
    run_uv("pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", ".")


def lock(options: list[str]) -> None:
    """Resolve again, keeping the pins that still fit, and take the index out of the result."""
    run_uv("lock", *options)
    text = LOCK.read_text()
    text = re.sub(r'registry = "[^"]*"', f'registry = "{INDEX}"', text)
    text = re.sub(r'url = "[^"]*/([^/"]+)"', r'path = "\1"', text)
    text = re.sub(r', upload-time = "[^"]*"', "", text)  # not every index tells it
    if "://" in text:
        sys.exit("uv.lock still holds a URL: teach lock() in .make/environment.py that form")
    LOCK.write_text(text)


def run_uv(*arguments: str, hint: str = "") -> None:
    """Run the locked uv on .venv; where only pip is told of an index, uv is told of the same."""
    environment = os.environ | {"VIRTUAL_ENV": str(VENV.absolute()), "UV_PYTHON": str((BIN / "python").absolute())}
    if not {"UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_CONFIG_FILE"} & environment.keys() and (index := pip_index()):
        environment["UV_DEFAULT_INDEX"] = index
    run([str(BIN / "uv"), *arguments], hint, environment)


def pip_index() -> str | None:
    """Return the index that pip's environment variable or configuration names, if any does."""
    asked = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    settings = dict(line.split("=", 1) for line in listed.splitlines() if "=" in line)
    found = (settings.get(f"{scope}.index-url") for scope in (":env:", "install", "global"))
    return next((value.strip("'\"") for value in found if value), None)


def run(command: list[str], hint: str = "", environment: dict[str, str] | None = None) -> None:
    """Run *command*; when it fails, end with its name and *hint*."""
    status = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False).returncode
    if status:
        sys.exit(f"failed with status {status}: {' '.join(command)}" + (f"\n{hint}" if hint else ""))


if __name__ == "__main__":
    main(sys.argv[1:])
