"""The process that engines know a container by: its pid is in the pid-file, its status is the workload's.

It starts the launcher at once, starts the machine that the launcher asks for, and when the launcher is done
carries standard input, output and signals between the engine and the guest. One thread, one poll loop; it
never reads what it has no room for. It decides nothing about trust.
"""

from __future__ import annotations

import _socket
import os
import select
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from krunpy.core.errors import FormatError, HostError, KrunpyError, format_error
from krunpy.runtime import container as files
from krunpy.runtime import control
from krunpy.runtime.children import Child, Waiting, reap, spawn_launcher, spawn_machine
from krunpy.runtime.container import STATUS_FAILED
from krunpy.runtime.guest_link import Exited, Failed, Note, Output, Started
from krunpy.runtime.journal import Journal, explain_failure
from krunpy.runtime.outflow import SmallLog
from krunpy.runtime.signals import ENDING, FORWARDED
from krunpy.runtime.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from krunpy.runtime.guest_link import Event
    from krunpy.runtime.streams import Interests

_CHUNK = 65536  # bytes of a log
_STOP_TIMEOUT_S = 1.0  # for the launcher to clean up
_LAUNCHER_TIMEOUT_S = 10.0  # for the launcher to notice that the machine is gone
_NULL_DEVICE = os.makedev(1, 3)


class Shim:
    """A container's life from `create` to its exit status. `run` is called once."""

    def __init__(
        self, *, directory: str, launcher: Callable[[str], int], environment: Mapping[str, str], fifo: int
    ) -> None:
        """Take over the calling process, with the container's standard streams and its fifo to read."""
        self._directory = directory
        self._wake = _watch_signals()
        self._fifo: int | None = fifo
        self._launch = partial(launcher, directory)
        self._environment = environment
        self._streams = Streams()
        self._logs: dict[int, SmallLog] = {}
        self._console = SmallLog(f"{directory}/{files.CONSOLE}")
        self._launcher_log = SmallLog(f"{directory}/{files.LAUNCHER_LOG}")
        self._machine: Child | None = None
        self._waiting: Waiting | None = None  # the machine's process before there is a machine
        self._machine_wish: control.Message | None = None
        self._fatal = b""  # what a machine says that will neither go on nor end by itself
        self._early_failure: tuple[KrunpyError, int] | None = None
        self._is_started = False  # the start byte came
        self._has_workload = False  # STARTED came
        self._status: int | None = None
        self._deadline: float | None = None
        self._journal = Journal(directory)

    def run(self) -> int:
        """Return the exit status: the workload's, 128 + signal, or STATUS_FAILED."""
        self._journal.note_time("launcher")
        ours, theirs = control.make_pair(_socket.SOCK_SEQPACKET)
        channel, guest_end = control.make_pair(_socket.SOCK_STREAM)
        self._control: _socket.socket | None = ours
        ours.setblocking(False)
        self._launcher = spawn_launcher(
            self._launch, self._environment, control_end=theirs, channel=channel, guest_end=guest_end
        )
        self._channel: _socket.socket | None = channel  # until the launcher is done and it is the streams'
        self._logs[self._launcher.output] = self._launcher_log
        theirs.close()
        guest_end.close()
        while self._status is None:
            try:
                self._turn()
            except KrunpyError as error:
                self._fail(error)
        self._journal.note_time("exit")
        self._finish()
        return self._status

    # -- the loop ----------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Wait for something to happen and deal with it."""
        interests = self._interests()
        poller = select.poll()
        for descriptor, (events, _) in interests.items():
            poller.register(descriptor, events)
        ready = poller.poll(self._patience_ms())
        if not ready:
            self._on_silence()
        for descriptor, happened in ready:
            if self._status is None:
                interests[descriptor][1](happened)

    def _patience_ms(self) -> float | None:
        """Return how long nothing may happen: for ever, unless the machine has ended."""
        if self._streams.are_joined and self._streams.has_room() and self._machine_ended():
            return 0.0
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic()) * 1000

    def _on_silence(self) -> None:
        """Nothing came in time: all that the dead machine said has been read, or the launcher hangs."""
        if self._streams.are_joined:
            self._on_channel_end()
        raise HostError(
            "cannot launch the machine",
            why=f"it ended, and the launcher hung; its last lines: {self._console.last_lines(3) or 'none'}",
            next=f"see {self._directory}/{files.CONSOLE}",
        )

    def _machine_ended(self) -> bool:
        return self._machine is not None and self._machine.exit_code is not None

    def _interests(self) -> Interests:
        wanted: Interests = {self._wake: (select.POLLIN, self._on_signals)}
        for descriptor in self._logs:
            wanted[descriptor] = (select.POLLIN, partial(self._on_log, descriptor))
        if self._fifo is not None:
            wanted[self._fifo] = (select.POLLIN, self._on_start)
        if self._control is not None:
            wanted[self._control.fileno()] = (select.POLLIN, self._on_control)
        return wanted | self._streams.interests(self._on_channel)

    # -- before the workload -----------------------------------------------------------------------------

    def _on_start(self, _: int) -> None:
        """`start` wrote its byte; or died between removing the fifo and writing, which counts."""
        if self._fifo is None:
            return
        path = f"{self._directory}/{files.FIFO}"
        if not os.read(self._fifo, 1) and os.path.exists(path):
            # A writer came and left without a byte: wait with a fresh descriptor, this one stays hung up.
            os.close(self._fifo)
            self._fifo = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            return
        os.close(self._fifo)
        self._fifo = None
        self._is_started = True
        self._journal.note_time("start")
        if self._early_failure is not None:
            error, status = self._early_failure
            self._fail(error, status=status)
            return
        self._tell_launcher({"kind": "start", "stdin_is_empty": _is_null(0)})
        if self._machine_wish is not None:
            self._start_machine(self._machine_wish)

    def _on_control(self, _: int = 0) -> bool:
        """Deal with one message of the launcher; return whether there was one."""
        if self._control is None:
            return False
        try:
            message = control.receive_message(self._control)
        except BlockingIOError:
            return False
        if message is None:
            self._control.close()
            self._control = None
            return False
        match message.kind:
            case "prepare" if self._waiting is None and self._machine_wish is None:
                self._waiting = Waiting(message.texts("argv"), message.texts("words"))
            case "vm" if self._machine_wish is None:
                self._machine_wish = message
                if self._is_started:
                    self._start_machine(message)
            case "channel" if len(message.descriptors) == 1 and self._channel is not None:
                self._channel.close()
                self._channel = _socket.socket(fileno=message.descriptors[0])
            case "note":
                self._say(message.text("text"))
            case "failed":
                error = KrunpyError(message.text("what"), why=message.text("why"), next=message.text("next"))
                self._fail(error, status=message.number("status", default=STATUS_FAILED))
            case _:
                raise FormatError("cannot understand the launcher", why=f'message "{message.kind}"')
        return True

    def _start_machine(self, message: control.Message) -> None:
        self._machine = spawn_machine(
            message.texts("argv"),
            message.descriptors,
            None if message.fields.get("groups") is None else message.numbers("groups"),
            self._waiting,
        )
        self._waiting = None
        self._logs[self._machine.output] = self._console
        self._fatal = message.text("fatal").encode()
        self._journal.note_time("machine")

    def _on_launcher_end(self) -> None:
        """Read what the launcher still said, then take over the channel, or fail."""
        while self._status is None and self._on_control():
            pass
        if self._status is not None:
            return
        for _ in range(16):
            self._on_log(self._launcher.output)
        code, said = self._launcher.exit_code, self._launcher_log.last_lines(2)
        if code or self._machine is None:
            raise HostError(
                "cannot launch the machine",
                why=f"the launcher ended with exit code {code}: {said or 'no message'}",
                next=f"see {self._directory}/{files.LAUNCHER_LOG}",
            )
        self._deadline = None
        assert self._channel is not None
        self._streams.join(self._channel)
        self._channel = None
        self._journal.note_time("running")

    def _tell_launcher(self, fields: dict[str, object]) -> None:
        if self._control is not None:
            try:
                control.send_message(self._control, fields)
            except OSError:
                return  # it is gone, and its exit code says why

    # -- while the workload runs -------------------------------------------------------------------------

    def _on_channel(self, happened: int) -> None:
        events = self._streams.carry(happened)
        if events is None:
            self._on_channel_end()
        for event in events:
            self._on_event(event)

    def _on_event(self, event: Event) -> None:
        match event:
            case Output(stream, data):
                self._streams.write(stream, data)
            case Started(times):
                self._has_workload = True
                self._journal.note_time("started")
                self._journal.note_guest_times(times)
                self._journal.write_times()
            case Note(text):
                self._say(text)
            case Exited(status):
                self._status = status
            case Failed(failure):
                self._fail(explain_failure(failure.reason, failure.text))

    def _on_channel_end(self) -> NoReturn:
        for child in (self._machine, self._launcher):
            if child is not None:
                self._on_log(child.output)
        lines = self._console.last_lines(4)
        raise HostError(
            "cannot tell how the workload ended",
            why=f"the machine ended without an exit status; its last lines: {lines or 'none'}",
            next=f"see {self._directory}/{files.CONSOLE}",
        )

    # -- signals and children ----------------------------------------------------------------------------

    def _on_signals(self, _: int) -> None:
        for number in os.read(self._wake, 4096):
            if number == signal.SIGCHLD:
                self._on_children()
            elif self._has_workload:
                self._streams.send_signal(number)
            elif number in ENDING:
                self._status = 128 + number
                return

    def _on_children(self) -> None:
        for pid, code in reap():
            if self._machine is not None and pid == self._machine.pid:
                self._machine.exit_code = code
                if not self._streams.are_joined:
                    self._deadline = time.monotonic() + _LAUNCHER_TIMEOUT_S
            elif self._waiting is not None and pid == self._waiting.child.pid:
                self._waiting.child.exit_code = code
            elif pid == self._launcher.pid:
                self._launcher.exit_code = code
                self._on_launcher_end()

    def _on_log(self, descriptor: int, _: int = 0) -> None:
        if descriptor not in self._logs:
            return
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return
        if data:
            self._logs[descriptor].write(data)
            if self._machine is not None and self._fatal and self._console.holds(self._fatal):
                self._machine.kill()
            return
        del self._logs[descriptor]
        os.close(descriptor)

    # -- the end -----------------------------------------------------------------------------------------

    def _fail(self, error: KrunpyError, *, status: int = STATUS_FAILED) -> None:
        """End with an error: one on standard error, the same in the container's directory.

        An error before `start` waits for it: an engine that created a container is there to hear it then.
        """
        if not self._is_started:
            self._early_failure = self._early_failure or (error, status)
            return
        self._status = status if 1 <= status <= 255 else STATUS_FAILED  # noqa: PLR2004
        self._streams.write(2, f"{format_error(error)}\n".encode("utf-8", "replace"))
        self._journal.write_failure(error, self._status)

    def _finish(self) -> None:
        """Stop the launcher kindly and the machine at once, then wait until the output has been taken."""
        if self._machine is not None:
            self._machine.kill()
        if self._waiting is not None:
            self._waiting.end()
        if self._launcher.exit_code is None:
            self._tell_launcher({"kind": "stop"})
            self._await_launcher(time.monotonic() + _STOP_TIMEOUT_S)
        self._journal.write_times()
        while waiting := self._streams.waiting_outlets():
            poller = select.poll()
            poller.register(self._wake, select.POLLIN)
            for descriptor in waiting:
                poller.register(descriptor, select.POLLOUT)
            for descriptor, _ in poller.poll():
                if descriptor in waiting:
                    waiting[descriptor].flush()
                elif ENDING.intersection(os.read(self._wake, 4096)):
                    return

    def _await_launcher(self, deadline: float) -> None:
        while self._launcher.exit_code is None and time.monotonic() < deadline:
            time.sleep(0.01)
            for pid, code in reap():
                if pid == self._launcher.pid:
                    self._launcher.exit_code = code

    def _say(self, text: str) -> None:
        shown = "".join(char if char.isprintable() else "?" for char in text)
        self._streams.write(2, f"krunpy: {shown}\n".encode("utf-8", "replace"))


def _watch_signals() -> int:
    """Have every signal that matters written to a pipe; return the end to read."""
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    os.set_blocking(theirs, False)
    signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
    for number in (*FORWARDED, signal.SIGCHLD):
        signal.signal(number, _ignore)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    return ours


def _ignore(number: int, frame: object) -> None:
    """Do nothing: the wake-up pipe has the number."""


def _is_null(descriptor: int) -> bool:
    return os.fstat(descriptor).st_rdev == _NULL_DEVICE
