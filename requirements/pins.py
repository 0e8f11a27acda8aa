"""The exact versions that contributors install, and the lowest that pyproject.toml allows.

python3.11 requirements/pins.py lock     write dev.lock: the newest of everything, as of now
python3 requirements/pins.py check       does dev.lock pin all that this Python would install?
python3 requirements/pins.py lowest      print what pyproject.toml allows at the lowest

Needs Python and pip only. The lock is a constraints file for pip: it installs nothing by itself,
so one file serves every Python. It is written by the lowest Python that pyproject.toml allows,
because later ones can install what that one can.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements" / "dev.lock"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HEADER = """\
# What contributors install: every package of the extra `dev`, for all Pythons of pyproject.toml.
# Written by `python{lowest} requirements/pins.py lock`.
"""


def resolved(*options: str) -> dict[str, str]:
    """The packages that pip would install for the extra `dev`, in a fresh environment."""
    with tempfile.TemporaryDirectory() as scratch:
        venv.create(scratch, with_pip=True)
        pip = [Path(scratch, "bin", "python"), "-m", "pip"]
        # The pip that comes with Python 3.11 is slow to resolve.
        subprocess.run([*pip, "install", "-q", "--upgrade", "pip"], check=True)
        report = Path(scratch, "report.json")
        subprocess.run(
            [*pip, "install", "-q", "--dry-run", "--report", report, *options, ".[dev]"],
            cwd=ROOT,
            check=True,
        )
        installed = json.loads(report.read_text(encoding="utf-8"))["install"]
    found = {each["metadata"]["name"]: each["metadata"]["version"] for each in installed}
    del found[PROJECT["name"]]
    return {canonical(name): found[name] for name in sorted(found, key=canonical)}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def lock() -> None:
    lowest = PROJECT["requires-python"].removeprefix(">=")
    running = "{}.{}".format(*sys.version_info)
    if running != lowest:
        sys.exit(f"the lock is written by Python {lowest}, this is {running}")
    lines = [f"{name}=={version}\n" for name, version in resolved().items()]
    LOCK.write_text(HEADER.format(lowest=lowest) + "".join(lines), encoding="utf-8")


def check() -> None:
    pinned = set(re.findall(r"^([^#\s]+)==", LOCK.read_text(encoding="utf-8"), re.MULTILINE))
    missing = [name for name in resolved("--constraint", str(LOCK)) if name not in pinned]
    if missing:
        sys.exit(f"{LOCK.name} does not pin {', '.join(missing)}: write it anew")


def lowest() -> None:
    """Each direct dependency at its lower bound, as constraints."""
    for requirements in PROJECT["optional-dependencies"].values():
        for requirement in requirements:
            name, _, rest = requirement.partition(">=")
            if rest:  # all but the package's own extras
                print(f"{name.partition('[')[0]}=={rest.partition(',')[0]}")


if __name__ == "__main__":
    commands = {"lock": lock, "check": check, "lowest": lowest}
    if sys.argv[1:] not in [[name] for name in commands]:
        sys.exit(__doc__)
    commands[sys.argv[1]]()
