"""Build a guest kernel of our own: options onto allnoconfig, compiled so that the same inputs give the same bytes.

The result is a folder named by its inputs, so that a second build of the same has nothing to do. It is not a guest yet:
`krunpy guest build` takes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import selectors
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import HostError, ToolError
from krunpy.core.files import load_bounded, lock, make_private_directory, write_atomically
from krunpy.core.proc import clean_environment, find_program, run, start
from krunpy.formats.bzimage import parse_kernel_release
from krunpy.guest.kernel import DESCRIPTION, ELF, IMAGE, MAX_KERNEL
from krunpy.guest.kernel_options import (
    find_unknown,
    format_options,
    load_options,
    load_wanted,
    require_survived,
)
from krunpy.guest.kernel_source import hash_source, require_tools, unpack_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from krunpy.guest.kernel_options import Wanted
    from krunpy.guest.kernel_source import Source

# What would tell one build from the next: when, by whom, where, and which time in this tree. The compiler sees no path
# of this machine, because the tree is built in place.
REPRODUCIBLE = {
    "KBUILD_BUILD_TIMESTAMP": "1970-01-01 00:00:00 +0000",
    "KBUILD_BUILD_USER": "krunpy",
    "KBUILD_BUILD_HOST": "krunpy",
    "KBUILD_BUILD_VERSION": "1",
    "SOURCE_DATE_EPOCH": "0",
}
STEPS = 2090  # lines that make prints for Linux 6.12 with our options: what 100 % is, about
_IMAGE_IN_TREE = "arch/x86/boot/bzImage"
_CONFIGURE_S, _STRIP_S = 600, 120
_KEPT_WORDS = 16 * 1024  # bytes of the end of make's errors


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltKernel:
    """The folder of a kernel, the contents of its kernel.json, and whether it was there already."""

    folder: str
    description: dict[str, object]
    was_there: bool


def build_kernel(
    output: str, source: Source, *, fragments: str, jobs: int, progress: Callable[[str, float], None]
) -> BuiltKernel:
    """Build a kernel into a folder of its own below `output`; do nothing if that is there already.

    fragments: folder of the configuration's fragments. jobs: compilers at a time, from 1.
    progress:  told each stage, and the part of it that is done, 0 to 1.

    Raises HostError if a tool is missing or the source does not take an option, ToolError with the compiler's words,
    UsageError if the source is none. Nothing but the locks is left behind then.
    """
    require_tools()
    wanted = load_wanted(fragments)
    progress("hashing the source", 0)
    inputs = _describe_inputs(source, wanted)
    name = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
    make_private_directory(output)
    folder = os.path.join(output, name)
    with lock(os.path.join(output, "build.lock")):
        described = os.path.join(folder, DESCRIPTION)
        if os.path.exists(described):
            found = json.loads(load_bounded(described, MAX_KERNEL))
            return BuiltKernel(folder=folder, description=found, was_there=True)
        workspace = os.path.join(output, "build.new")
        shutil.rmtree(workspace, ignore_errors=True)  # of a build that was killed: we hold the lock
        make_private_directory(workspace)
        try:
            description = _build(workspace, source, wanted, inputs, jobs, progress)
            os.rename(os.path.join(workspace, "result"), folder)
        finally:
            shutil.rmtree(workspace, ignore_errors=True)
    return BuiltKernel(folder=folder, description=description, was_there=False)


def _describe_inputs(source: Source, wanted: Wanted) -> dict[str, object]:
    """Return everything that the bytes of the kernel follow from."""
    return {
        "version": 1,
        "source": hash_source(source.path),
        "patches": [hash_source(path) for path in source.patches],
        "compiler": _say_version("gcc"),
        "linker": _say_version("ld"),
        "options": dict(wanted.options),
        "varying": sorted(wanted.varying),
        "environment": REPRODUCIBLE,
    }


def _say_version(program: str) -> str:
    return run([program, "--version"], timeout_s=60).stdout.decode(errors="replace").partition("\n")[0]


def _build(
    workspace: str,
    source: Source,
    wanted: Wanted,
    inputs: dict[str, object],
    jobs: int,
    progress: Callable[[str, float], None],
) -> dict[str, object]:
    progress("unpacking the source", 0)
    tree = unpack_source(source, os.path.join(workspace, "source"))
    progress("configuring", 0)
    unknown = _configure(tree, wanted, os.path.join(workspace, "options"))
    _compile(tree, jobs, progress)
    progress("installing", 0)
    facts = {
        **inputs,
        "source_name": os.path.basename(source.path),
        "patch_names": [os.path.basename(path) for path in source.patches],
        "unknown": list(unknown),
    }
    return _collect(tree, os.path.join(workspace, "result"), facts)


def _configure(tree: str, wanted: Wanted, options_file: str) -> tuple[str, ...]:
    """Write the tree's .config, and return the options that this source does not know."""
    unknown = find_unknown(wanted, tree)
    options = {name: value for name, value in wanted.options.items() if name not in unknown}
    write_atomically(options_file, format_options(options).encode())
    run(
        ["make", "-s", "-C", tree, "ARCH=x86_64", "allnoconfig"],
        timeout_s=_CONFIGURE_S,
        env={**REPRODUCIBLE, "KCONFIG_ALLCONFIG": options_file},
    )
    require_survived(wanted, load_options(os.path.join(tree, ".config")), frozenset(unknown))
    return unknown


def _compile(tree: str, jobs: int, progress: Callable[[str, float], None]) -> None:
    """Run make to its end; make and its compilers are stopped if the block is left otherwise."""
    make = find_program("make")
    if make is None:
        raise HostError("cannot build a kernel", why="make is missing", next="apt-get install make")
    words = [make, "-C", tree, f"-j{jobs}", "ARCH=x86_64", "CC=gcc", "bzImage"]
    done, said = 0, b""
    with start(words, env={**clean_environment(), **REPRODUCIBLE}) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for stream, chunk in _read_both(process.stdout.fileno(), process.stderr.fileno()):
            if stream == process.stderr.fileno():
                said = (said + chunk)[-_KEPT_WORDS:]
                continue
            done += chunk.count(b"\n")
            progress("compiling", min(done / STEPS, 0.99))
        code = process.wait()
    if code:
        lines = said.decode(errors="replace").splitlines()
        first = next((number for number, line in enumerate(lines) if "rror" in line), 0)
        why = " | ".join(line.strip() for line in lines[first : first + 4]) or "no message"
        raise ToolError("the kernel does not compile", why=f"make: exit code {code}: {why}")


def _read_both(*descriptors: int) -> Iterator[tuple[int, bytes]]:
    """Give what comes from the descriptors, until all are at their end."""
    with selectors.DefaultSelector() as selector:
        for descriptor in descriptors:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(key.fd)
                yield key.fd, chunk


def _collect(tree: str, result: str, facts: dict[str, object]) -> dict[str, object]:
    """Copy image, ELF file and .config into a new folder, with a kernel.json that says what they are."""
    make_private_directory(result)
    image = load_bounded(os.path.join(tree, _IMAGE_IN_TREE), MAX_KERNEL)
    elf = os.path.join(tree, "vmlinux.stripped")
    run(["objcopy", "-S", os.path.join(tree, "vmlinux"), elf], timeout_s=_STRIP_S)
    parts = {
        IMAGE: image,
        ELF: load_bounded(elf, MAX_KERNEL),
        "config": load_bounded(os.path.join(tree, ".config"), MAX_KERNEL),
    }
    description = {
        **facts,
        "release": parse_kernel_release(image),
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()},
        "bytes": {name: len(data) for name, data in parts.items()},
    }
    for name, data in parts.items():
        write_atomically(os.path.join(result, name), data)
    text = json.dumps(description, indent=1, sort_keys=True).encode() + b"\n"
    write_atomically(os.path.join(result, DESCRIPTION), text)
    return description
