"""What a fresh machine meets: versions, environments, the Makefile, the wheel's content."""

from __future__ import annotations

import importlib
import importlib.metadata
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import ipd_lite

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONDA_NAMES = {
    "torch": "pytorch",
    "matplotlib": "matplotlib-base",
    "seaborn": "seaborn-base",
    "mujoco": "mujoco-python",
}


def requirements(*groups: str) -> dict[str, Requirement]:
    """Direct requirements of the package and of some extras, by canonical name."""
    lines = PROJECT["dependencies"] + [line for group in groups for line in EXTRAS[group]]
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


def constraints() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pinned = {canonicalize_name(r.name): r for r in found}
    assert len(pinned) == len(found), "a package is pinned twice"
    return pinned


def conda_specifiers() -> tuple[dict[str, SpecifierSet], dict[str, Requirement]]:
    """environment.yml as (conda's packages, pip's packages)."""
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda, pip = {}, {}
    for entry in entries:
        if isinstance(entry, dict):
            found = [Requirement(line) for line in entry["pip"] if not line.startswith("-e")]
            pip = {canonicalize_name(r.name): r for r in found}
            assert "-e ." in entry["pip"]
        else:
            name, _, specifier = entry.partition(" ")
            conda[name] = SpecifierSet(specifier)
    return conda, pip


def test_environment_yml_asks_for_what_pyproject_asks_for():
    conda, pip = conda_specifiers()
    assert conda.pop("python") == SpecifierSet(PROJECT["requires-python"])
    conda.pop("pip")
    for name, requirement in requirements().items():  # no developers' tools: Binder builds it
        if name in pip:
            assert pip[name] == requirement
        else:
            known_as = CONDA_NAMES.get(name, name)
            assert conda.pop(known_as, "missing") == requirement.specifier, known_as
    assert not conda, "environment.yml has packages that pyproject.toml lacks"
    channels = yaml.safe_load((ROOT / "environment.yml").read_text())["channels"]
    assert channels[0] == "conda-forge"


PRELOADED = {
    "torch",
    "numpy",
    "scipy",
    "pandas",
    "matplotlib",
    "seaborn",
    "ipywidgets",
    "ipython",
    "pillow",
    "h5py",
    "tqdm",
    "rich",
    "joblib",
    "filelock",
}
"""What Colab brings. Another version of what its kernel has imported would want a restart."""


def test_colab_installs_what_is_missing_and_replaces_nothing():
    lines = (ROOT / "notebooks" / "colab.txt").read_text().splitlines()
    asked = {canonicalize_name(r.name): r for r in map(Requirement, lines[2:])}
    needed = requirements()
    del needed["jupyterlab"]  # Colab is the front end
    assert set(needed) == PRELOADED | set(asked) and not PRELOADED & set(asked)
    assert asked == {name: needed[name] for name in asked}


def test_constraints_are_exact_and_inside_the_ranges():
    pinned = constraints()
    for name, requirement in pinned.items():
        (pin,) = requirement.specifier
        assert pin.operator == "==", name
        assert "+" not in pin.version, f"{name}: local version"
        assert "*" not in pin.version
    for name, requirement in requirements("dev", "dask", "collect", "browser").items():
        assert name in pinned, f"{name} is not in constraints.txt"
        (pin,) = pinned[name].specifier
        assert requirement.specifier.contains(pin.version), f"{pinned[name]} is outside the range"


def test_promised_versions():
    assert str(constraints()["torch"].specifier) == "==2.13.0"
    mujoco = requirements()["mujoco"].specifier
    assert set(map(str, mujoco)) == {">=3.3", "<3.12"}
    assert SpecifierSet(PROJECT["requires-python"]) == SpecifierSet(">=3.11,<3.14")
    minors = {c.split("::")[-1].strip() for c in PROJECT["classifiers"] if "Python :: 3." in c}
    assert minors == {"3.11", "3.12", "3.13"}
    assert {"dev", "collect", "dask"} <= set(EXTRAS)


def test_constraints_hold_everything_that_gets_installed():
    """Walk the installed packages from our direct requirements: each one must be pinned."""
    pinned = constraints()
    todo = [(r, r.extras) for r in requirements("dev").values()]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        requirement, extras = todo.pop()
        name = canonicalize_name(requirement.name)
        if (name, frozenset(extras)) in seen:
            continue
        seen.add((name, frozenset(extras)))
        assert name in pinned, f"{name} gets installed but is not in constraints.txt"
        for line in importlib.metadata.requires(name) or []:
            child = Requirement(line)
            active = child.marker is None or any(
                child.marker.evaluate({"extra": extra}) for extra in ["", *extras]
            )
            if active and not canonicalize_name(child.name).startswith(
                ("nvidia", "cuda", "triton")
            ):
                todo.append((child, child.extras))  # torch pins its own CUDA packages
    assert len(seen) > 100


def test_every_import_is_declared():
    """Top-level imports of the package are its own, the standard library's or declared."""
    import ast

    declared = set(requirements("collect", "dask")) | {"ipd-lite"}
    by_module = importlib.metadata.packages_distributions()
    extra = {"sbx": "sbx-rl", "stable-baselines3": "stable-baselines3"}
    for path in sorted((ROOT / "ipd_lite").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            else:
                continue
            for module in {name.partition(".")[0] for name in names}:
                if module in sys.stdlib_module_names:
                    continue
                known = {canonicalize_name(d) for d in by_module.get(module, [module])}
                known.add(extra.get(module, canonicalize_name(module)))
                assert known & declared, f"{path.name} imports {module}, which is not declared"


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert Version(citation["version"]) == Version(ipd_lite.__version__)
    paper = citation["references"][0]
    assert paper["identifiers"][0]["value"] == "arXiv:2603.04289"
    assert paper["doi"] == "10.65109/BELB5985"
    assert [author["family-names"] for author in paper["authors"]] == [
        "Qin",
        "Wang",
        "Zhou",
        "Liu",
        "Dong",
        "Ji",
    ]
    assert paper["title"].startswith("IPD: Boosting Sequential Policy")
    assert "Copyright (c) 2026 ipd-lite authors" in (ROOT / "LICENSE").read_text()
    assert citation["license"] == PROJECT["license"] == "MIT"


def test_the_command_exists():
    module, _, function = PROJECT["scripts"]["ipd-lite"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_the_wheel_holds_the_whole_package(tmp_path):
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "ipd_lite", source / "ipd_lite", ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        content = {n for n in archive.namelist() if ".dist-info/" not in n}
    files = (p for p in (ROOT / "ipd_lite").rglob("*") if p.is_file())
    expected = {p.relative_to(ROOT).as_posix() for p in files if "__pycache__" not in p.parts}
    assert content == expected


@pytest.fixture
def make():
    if shutil.which("make") is None:
        pytest.skip("make is not installed")

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["make", "--no-print-directory", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    return call


@pytest.mark.parametrize("version", [(3, 9, 18), (3, 14, 0), (2, 7, 18)])
def test_make_names_an_unsuitable_python(make, tmp_path, version):
    text = ".".join(map(str, version))
    pretend = tmp_path / "python"
    pretend.write_text(
        "#!/bin/sh\n"
        f'exec "{sys.executable}" -c "import sys; sys.version_info = {version}; '
        f'sys.version = \'{text} (pretended)\'; exec(sys.argv[1])" "$2"\n'
    )
    pretend.chmod(0o755)
    result = make("check-python", f"PYTHON={pretend}", f"VENV={tmp_path / 'none'}")
    assert result.returncode != 0
    assert f"needs Python 3.11 to 3.13, but {pretend} is {text}" in result.stderr
    assert "PYTHON=python3.12" in result.stderr


def test_make_accepts_this_python(make, tmp_path):
    result = make("check-python", f"PYTHON={sys.executable}", f"VENV={tmp_path / 'none'}")
    assert result.returncode == 0, result.stderr


TARGETS = ["demo", "test", "lab", "bench", "figures", "lint", "types"]
TARGETS += ["notebooks", "test-notebooks", "test-browser", "site", "teacher"]


@pytest.mark.parametrize("target", TARGETS)
def test_make_targets(make, tmp_path, target):
    """A dry run from nothing: makes the environment with the constraints, then does its work."""
    result = make("--dry-run", target, f"VENV={tmp_path / 'fresh'}")
    assert result.returncode == 0, result.stderr
    assert "-c constraints.txt" in result.stdout
    last_command = result.stdout.replace("\\\n", " ").splitlines()[-1]
    assert f"{tmp_path / 'fresh'}/bin/" in last_command
    assert f"make {target} " in make("help").stdout


def test_ci_ends_with_the_tests():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines[-1].endswith(" test")
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111, ".ci/run is not executable"
