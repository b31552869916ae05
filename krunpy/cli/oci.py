"""The OCI verbs as programs call them: exit codes, what is printed, and the log that engines read.

Silent on success: what `create` prints would be the container's output. Errors: exit 1 (exec: 255), the
message on standard error and, with --log, in the form that engines parse. Source: podman.md section 2.
"""

from __future__ import annotations

import os
import sys

from krunpy import __version__
from krunpy.cli.oci_words import REFUSED, VERBS, Words, parse_verb, split_globals
from krunpy.core.errors import KrunpyError, UsageError, make_plain
from krunpy.oci.state import find_state_root, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from krunpy.runtime.intake import Request

_EXEC_REFUSED = 255  # what crun exits with when exec fails
# Engines take these words, anywhere in a message, for a missing (127) or forbidden (126) program.
_ENGINE_WORDS = {
    "no such file or directory": "it does not exist",
    "executable file not found in": "found no program in",
    "open executable": "open program",
    "permission denied": "access was denied",
    "operation not permitted": "the kernel does not permit it",
}


def wants(words: Sequence[str]) -> bool:
    """Say whether a command line is an OCI one, and not one for people."""
    if list(words) in (["--version"], ["-v"]):
        return True
    try:
        _, rest = split_globals(words)
    except UsageError:
        return False
    if not rest:
        return False
    if rest[0] == "run":
        return _is_oci_run(rest[1:])
    return rest[0] in VERBS or rest[0] in REFUSED


def _is_oci_run(words: Sequence[str]) -> bool:
    """Tell `run --bundle DIR ID` and `run ID` beside a config.json from `run SOURCE [-- ARGS]`."""
    if "--" in words:
        return False
    names = {word.partition("=")[0] for word in words}
    if names & {"--bundle", "-b", "--config", "-f"}:
        return True
    return bool(words) and not os.path.exists(words[-1]) and os.path.exists("config.json")


def run(words: Sequence[str], environment: Mapping[str, str], launcher: Callable[[str], int]) -> int:
    """Run an OCI command line and return its exit status.

    launcher: what turns a created container, given by its directory, into a running machine.
    """
    given: dict[str, str] = {}
    rest = list(words)
    try:
        if rest in (["--version"], ["-v"]):
            print(f"krunpy version {__version__}\nspec: 1.2.0")
            return 0
        given, rest = split_globals(words)
        if rest[0] in REFUSED:
            raise UsageError(f"cannot {rest[0]}", why=REFUSED[rest[0]])
        parsed = parse_verb(given, rest)
        if parsed.has("--help"):
            print(f"usage: krunpy [globals] {parsed.verb} {VERBS[parsed.verb][3]}")
            return 0
        root = given.get("--root") or find_state_root(environment)
        return _dispatch(parsed, root, environment, launcher)
    except (KrunpyError, OSError) as error:
        _report(error, given)
        return _EXEC_REFUSED if rest[:1] == ["exec"] else 1


def _dispatch(words: Words, root: str, environment: Mapping[str, str], launcher: Callable[[str], int]) -> int:
    match words.verb:
        case "create":
            from krunpy.runtime.create import create_container

            create_container(_request(words, root, environment, launcher))
            return 0
        case "run":
            return _run(words, _request(words, root, environment, launcher))
        case "features" | "spec":
            return _print_document(words)
        case _:
            return _light(words, root)


def _light(words: Words, root: str) -> int:
    """Run a verb that must feel instant."""
    from krunpy.runtime import lifecycle

    container_id = words.arguments[0] if words.arguments else ""
    match words.verb:
        case "start":
            _warn(lifecycle.start_container(root, container_id))
        case "state":
            print(lifecycle.show_state(root, container_id))
        case "kill":
            from krunpy.runtime.signals import parse_signal

            given = words.arguments[1] if len(words.arguments) > 1 else words.option("--signal")
            lifecycle.kill_container(root, container_id, parse_signal(given or "TERM"))
        case "delete":
            _warn(lifecycle.delete_container(root, container_id, force=words.has("--force")))
        case _:
            _print_list(words, root)
    return 0


def _request(
    words: Words, root: str, environment: Mapping[str, str], launcher: Callable[[str], int]
) -> Request:
    from krunpy.runtime.intake import Request

    count = words.option("--preserve-fds") or "0"
    if not (count.isascii() and count.isdigit() and len(count) < 5):  # noqa: PLR2004
        raise UsageError("cannot use option --preserve-fds", why=f'seen "{count[:20]}", wanted a number')
    if words.globals.get("--config"):
        environment = {**environment, "KRUNPY_CONFIG": os.path.abspath(words.globals["--config"])}
    manager = words.globals.get("--cgroup-manager") or "cgroupfs"
    if manager not in ("cgroupfs", "systemd", "disabled"):
        why = f'seen "{manager[:20]}", wanted cgroupfs, systemd or disabled'
        raise UsageError("cannot use option --cgroup-manager", why=why)
    return Request(
        container_id=words.arguments[0],
        bundle=os.path.realpath(words.option("--bundle") or "."),
        config_file=words.option("--config"),
        root=os.path.abspath(root),
        pid_file=words.option("--pid-file"),
        console_socket=words.option("--console-socket"),
        preserve_fds=int(count),
        cgroup_manager=manager,
        launcher=launcher,
        environment=environment,
    )


def _run(words: Words, request: Request) -> int:
    from krunpy.runtime.foreground import run_attached, run_detached

    if words.has("--detach"):
        _warn(run_detached(request))
        return 0
    status, warnings = run_attached(request, keep=words.has("--keep"))
    _warn(warnings)
    return status


def _print_document(words: Words) -> int:
    from krunpy.runtime.features import encode_features, encode_spec

    if words.verb == "features":
        print(encode_features(__version__))
        return 0
    path = os.path.join(words.option("--bundle") or ".", "config.json")
    try:
        with open(path, "x", encoding="utf-8") as stream:
            stream.write(encode_spec())
    except FileExistsError:
        raise UsageError(f"cannot write {path}", why="it exists already") from None
    return 0


def _print_list(words: Words, root: str) -> None:
    from krunpy.runtime import lifecycle

    form = words.option("--format") or "table"
    if form not in ("table", "json"):
        raise UsageError("cannot list", why=f'format: seen "{form[:20]}", wanted table or json')
    if words.has("--quiet"):
        for container, _ in lifecycle.list_containers(root):
            print(container.id)
        return
    if form == "json":
        print(lifecycle.encode_list(root))
        return
    line = "{:<24} {:<8} {:<8} {:<22} {}"
    print(line.format("ID", "PID", "STATUS", "CREATED", "BUNDLE"))
    for container, status in lifecycle.list_containers(root):
        record = container.record
        pid = str(record.pid) if record and status in ("created", "running") else "0"
        created, bundle = (record.created, record.bundle) if record else ("", "")
        print(line.format(container.id, pid, status, created, bundle))


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        print(f"krunpy: warning: {warning}", file=sys.stderr)


def _report(error: KrunpyError | OSError, given: Mapping[str, str]) -> None:
    """Say an error on standard error and in the log: as JSON the one object that engines expect."""
    message = _message(error)
    print(f"krunpy: {message}", file=sys.stderr)
    path = given.get("--log", "")
    if not path:
        return
    import time

    is_json = given.get("--log-format") == "json"
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = f'{{"level": "error", "msg": {quote(message)}, "time": "{stamp}"}}' if is_json else message
    try:
        with open(path, "w" if is_json else "a", encoding="utf-8", errors="surrogateescape") as stream:
            stream.write(f"{line}\n")
    except OSError as second:
        print(f"krunpy: cannot write {path}: {second.strerror}", file=sys.stderr)


def _message(error: KrunpyError | OSError) -> str:
    from krunpy.runtime.executable import ExecutableError

    if isinstance(error, ExecutableError):
        return make_plain(str(error))
    text = str(error)
    if isinstance(error, KrunpyError) and error.next:
        text = f"{text}; {error.next}"
    if isinstance(error, OSError):
        text = f"{error.filename or 'krunpy'}: {error.strerror or error}"
    for words, ours in _ENGINE_WORDS.items():
        at = text.lower().find(words)
        while at >= 0:
            text = text[:at] + ours + text[at + len(words) :]
            at = text.lower().find(words)
    return make_plain(text)
