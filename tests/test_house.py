"""The house rules, as tests: layers, doors, sizes, docstrings, start-up, what may not be in the tree."""

import ast
import functools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import krunpy

HOUSE = Path(__file__).parent.parent
FILE_CEILING = 400  # lines
FUNCTION_CEILING = 50  # lines
# An outside library or a dangerous module -> the files that may import it.
DOORS = {
    "subprocess": ("krunpy/core/proc.py",),
    "ctypes": ("krunpy/core/linux.py", "krunpy/vmm/libkrun_abi.py"),
    "opencontainers": ("krunpy/oci/manifest.py",),
    "pyroute2": ("krunpy/vmm/net.py",),
    "psutil": ("krunpy/runtime/host.py",),
}
PURE_ROOMS = ("formats", "measure", "attest")
IMPURE = (
    *("io", "pathlib", "shutil", "socket", "ssl", "urllib", "http", "tempfile", "mmap", "fcntl", "asyncio"),
    *("signal", "threading", "multiprocessing", "time", "random", "select", "selectors"),
)
PURE_OS = ("os.major", "os.minor", "os.makedev")  # arithmetic
HEAVY = (
    *(
        "typer",
        "click",
        "rich",
        "pydantic",
        "pyroute2",
        "psutil",
        "cryptography",
        "opencontainers",
        "msgspec",
    ),
    *("numpy", "starlette", "uvicorn", "argparse", "logging", "subprocess", "asyncio", "re", "json"),
    *("dataclasses", "typing", "pathlib"),
)
FAST_VERBS = (
    ["state", "no-such-container"],
    ["start", "no-such-container"],
    ["kill", "no-such-container", "15"],
    ["delete", "no-such-container"],
    ["delete", "--force", "no-such-container"],
    ["--version"],
)
# Each with a class of one letter, so that this file does not hold what it looks for.
FORBIDDEN_TEXT = (
    r"/(?:home|Users)/(?!me/|user/)[a-z]\w+/",
    r"/root/\.\w",
    r"/[w]ork/(?:main|shared)",
    r"/tm[p]/w/",
    r"pypi\.(?:org|[p]ython)|python[h]osted",
    r"(?:deb|security|snapshot)\.[d]ebian\.org",
    r"[n]pmjs\.(?:org|com)|crates[.]io|proxy\.[g]olang|[m]aven\.(?:org|apache)",
    r"BEGIN (?:RSA |EC |OPENSSH )?[P]RIVATE KEY",
)


@functools.cache
def _list_tree() -> list[Path]:
    """Return every file that belongs to the project."""
    git = subprocess.run(
        ["git", "-C", str(HOUSE), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True, check=False,
    )  # fmt: skip
    if git.returncode == 0:
        paths = [HOUSE / os.fsdecode(name) for name in git.stdout.split(b"\0") if name]
        return [path for path in paths if path.is_file() and not path.is_symlink()]
    hidden = {"build", "dist", "__pycache__"}
    return [
        path
        for path in HOUSE.rglob("*")
        if path.is_file() and not any(part.startswith(".") or part in hidden for part in path.parts)
    ]


@functools.cache
def _load_modules() -> dict[str, ast.Module]:
    """Return path -> syntax tree of every module of the package."""
    modules = {
        str(path.relative_to(HOUSE)): ast.parse(path.read_text())
        for path in sorted((HOUSE / "krunpy").rglob("*.py"))
    }
    assert len(modules) > 50
    return modules


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _count_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the length of a function's body without its docstring: a list of steps there is no fault."""
    statements = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (statements[-1].end_lineno or 0) - statements[0].lineno + 1 if statements else 0


def _program() -> list[str]:
    return [sys.executable, str(HOUSE / "scripts" / "krunpy")]


# --- structure


def test_imports_go_down_the_staircase() -> None:
    program = shutil.which("lint-imports", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    assert program is not None, "lint-imports is missing: install requirements/dev-lock.txt"

    result = subprocess.run([program, "--no-cache"], cwd=HOUSE, capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stdout + result.stderr


def test_each_dangerous_library_has_one_door() -> None:
    others = [
        f"{path} imports {name}"
        for path, tree in _load_modules().items()
        for name in _imported(tree)
        if path not in DOORS.get(name.partition(".")[0], (path,))
    ]

    assert not others


def test_pure_rooms_touch_no_file_socket_or_process() -> None:
    rooms = {path: tree for path, tree in _load_modules().items() if path.split("/")[1] in PURE_ROOMS}
    impure = [
        f"{path} imports {name}"
        for path, tree in rooms.items()
        for name in _imported(tree)
        if name.partition(".")[0] in IMPURE
    ]
    impure += [
        f"{path}:{node.lineno} uses {ast.unparse(node)}"
        for path, tree in rooms.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and ast.unparse(node).startswith("os."))
        or (isinstance(node, ast.Name) and node.id == "open")
        if ast.unparse(node) not in PURE_OS
    ]

    assert not impure


def test_only_the_command_line_exits() -> None:
    exits = [
        f"{path}:{node.lineno}"
        for path, tree in _load_modules().items()
        if not path.startswith("krunpy/cli/")
        for statement in tree.body
        if not ast.unparse(statement).startswith("if __name__ == '__main__':")
        for node in ast.walk(statement)
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.exit"
    ]

    assert not exits


def test_package_initialisers_hold_nothing_but_a_docstring() -> None:
    fuller = [
        path
        for path, tree in _load_modules().items()
        if path.endswith("/__init__.py") and path != "krunpy/__init__.py" and len(tree.body) != 1
    ]

    assert not fuller


# --- sizes and words


@pytest.mark.parametrize(
    "pattern", ["krunpy/**/*.py", "tests/**/*.py", "benchmarks/**/*.py", "images/**/*.[ch]"]
)
def test_no_file_is_longer_than_the_ceiling(pattern: str) -> None:
    files = sorted(HOUSE.glob(pattern))
    lengths = {str(path.relative_to(HOUSE)): len(path.read_bytes().splitlines()) for path in files}

    assert lengths
    assert not {path: lines for path, lines in lengths.items() if lines > FILE_CEILING}


def test_no_function_is_longer_than_the_ceiling() -> None:
    long = [
        f"{path}:{node.lineno} {node.name} has {lines} lines"
        for path, tree in _load_modules().items()
        for node in _functions(tree)
        if (lines := _count_lines(node)) > FUNCTION_CEILING
    ]

    assert not long


def test_every_public_name_is_documented() -> None:
    bare = [path for path, tree in _load_modules().items() if not ast.get_docstring(tree)]
    for path, tree in _load_modules().items():
        bare += [
            f"{path}:{node.lineno} {node.name}"
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and not node.name.startswith("_")
            and not ast.get_docstring(node)
        ]

    assert not bare


def test_every_test_file_holds_a_test() -> None:
    empty = [
        str(path.relative_to(HOUSE))
        for path in (HOUSE / "tests").rglob("test_*.py")
        if not re.search(r"^\s*(?:async )?def test_|TestCase", path.read_text(), re.MULTILINE)
    ]

    assert not empty


# --- start-up


@pytest.mark.parametrize("verb", FAST_VERBS, ids=" ".join)
def test_a_fast_verb_imports_nothing_heavy(verb: list[str], tmp_path: Path) -> None:
    words = verb if verb == ["--version"] else ["--root", str(tmp_path), *verb]
    argv = [sys.executable, "-X", "importtime", str(HOUSE / "scripts" / "krunpy"), *words]

    result = subprocess.run(argv, capture_output=True, text=True, check=False)

    imported = {
        line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if "import time:" in line
    }
    assert "krunpy.cli.oci" in imported
    assert "Traceback" not in result.stderr
    assert not {name for name in imported if name.partition(".")[0] in HEAVY} - _imported_by_the_site()


@functools.cache
def _imported_by_the_site() -> set[str]:
    """Return what this interpreter imports before any program: a virtual environment's .pth files may."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", ""], capture_output=True, text=True, check=True
    )
    return {line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if "import time:" in line}


def test_state_answers_at_once(tmp_path: Path) -> None:
    """A generous bound on the best of some runs: it catches disasters, benchmarks/ measures."""
    argv = [*_program(), "--root", str(tmp_path), "state", "no-such-container"]
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        subprocess.run(argv, capture_output=True, check=False)
        seconds.append(time.perf_counter() - start)

    assert min(seconds) < 0.15, f"median {statistics.median(seconds):.3f} s"


def test_a_leaked_pythonpath_does_not_reach_the_runtime(tmp_path: Path) -> None:
    (tmp_path / "posixpath.py").write_text("raise SystemExit('the wrong module')")
    (tmp_path / "krunpy.py").write_text("raise SystemExit('the wrong krunpy')")
    environment = {"PYTHONPATH": str(tmp_path), "PATH": os.defpath}

    result = subprocess.run(
        [*_program(), "--version"], capture_output=True, text=True, check=False, env=environment
    )

    assert "wrong" not in result.stdout + result.stderr
    assert krunpy.__version__ in result.stdout


# --- what may not be in the tree


def test_the_tree_names_no_private_path_and_no_registry() -> None:
    pattern = re.compile("|".join(FORBIDDEN_TEXT).encode())
    found = [
        f"{path.relative_to(HOUSE)}: {match.group().decode()}"
        for path in _list_tree()
        if path.name != "LICENSE" and (match := pattern.search(path.read_bytes()))
    ]

    assert len(_list_tree()) > 100
    assert not found


def test_the_tree_holds_no_generated_or_large_file() -> None:
    made = re.compile(r"\.(?:pyc|o|a|so|img|cpio|ko|deb|whl|tar|log)$|vmlinuz")
    odd = [
        str(path.relative_to(HOUSE))
        for path in _list_tree()
        if made.search(path.name) or path.stat().st_size > 512 * 1024
    ]

    assert not odd


def test_the_licence_is_there_and_named() -> None:
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]

    assert project["license"] == "Apache-2.0"
    assert "Apache License" in (HOUSE / "LICENSE").read_text()


def test_every_locked_package_has_a_hash() -> None:
    for name in ("lock.txt", "dev-lock.txt"):
        entries = re.split(r"\n(?=\S)", (HOUSE / "requirements" / name).read_text().strip())

        assert len(entries) > 20
        assert not [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry]


def test_every_declared_dependency_is_locked() -> None:
    document = tomllib.loads((HOUSE / "pyproject.toml").read_text())
    for names, lock in (
        (document["project"]["dependencies"] + document["build-system"]["requires"], "lock.txt"),
        (document["dependency-groups"]["dev"], "dev-lock.txt"),
    ):
        locked = set(re.findall(r"^([\w.-]+)==", (HOUSE / "requirements" / lock).read_text(), re.MULTILINE))

        assert not {re.match(r"[\w.-]+", name).group() for name in names} - locked  # type: ignore[union-attr]


@pytest.mark.parametrize("stage", ["precreate", "poststop"])
def test_a_hook_definition_is_what_podman_reads(stage: str) -> None:
    definition = json.loads((HOUSE / "hooks" / f"krunpy-{stage}.json").read_text())
    script = HOUSE / "hooks" / f"krunpy-{stage}"

    assert definition["version"] == "1.0.0"
    assert definition["stages"] == [stage]
    assert definition["when"] == {"always": True}
    assert definition["hook"]["path"].startswith("/")
    assert Path(definition["hook"]["path"]).name == script.name
    assert len(script.read_text().splitlines()) == 2
    assert f"krunpy hook {stage}" in script.read_text()
    assert os.access(script, os.X_OK)
