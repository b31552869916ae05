"""A launcher without conversion, server and VM: asks for the fake machine, waits for `start`, ends.

Usage: fake_launcher.py STATE_DIR, with the sockets of krunpy.runtime.control. FAKE in process.env picks a fault.
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from krunpy.runtime import control

# What the shim starts has no rights and can run nothing of a home directory: it stands for the fake machine, which
# begins when it begins, prints what that prints, and ends as that ends.
STAND_IN = "echo >&{fd0}; cat <&{fd1}; read -r code <&{fd2}; exit $code"
BUSYBOX = "/bin/busybox"
MACHINE = str(Path(__file__).with_name("fake_machine.py"))


def start_machine(guest: socket.socket, directory: str, fault: str) -> list[int]:
    """Fork what waits for the stand-in and then runs the machine; return the three ends of the stand-in's pipes."""
    go, their_go = os.pipe()
    their_console, console = os.pipe()
    their_status, status = os.pipe()
    theirs = [their_go, their_console, their_status]
    if os.fork():
        for end in (go, console, status):
            os.close(end)
        return theirs
    for end in (*theirs, control.CONTROL_FD, control.CHANNEL_FD):
        os.close(end)
    if os.read(go, 1):
        argv = [sys.executable, "-I", MACHINE, str(guest.fileno()), directory, fault]
        code = subprocess.call(argv, pass_fds=[guest.fileno()], stdout=console, stderr=console)
        os.close(console)
        os.write(status, b"%d\n" % code)
        os.read(go, 1)  # the stand-in has ended: a machine's channel closes after its last word
        guest.close()
    os._exit(0)


def main() -> int:
    directory = sys.argv[1]
    config = json.loads(Path(directory, "config.json").read_text())
    fault = next((item[5:] for item in config["process"]["env"] if item.startswith("FAKE=")), "")
    shim = socket.socket(fileno=control.CONTROL_FD)
    guest = socket.socket(fileno=control.GUEST_FD)
    print("the fake launcher was here", flush=True)
    if fault == "launcher_fails":
        fields = {"kind": "failed", "what": "cannot attest", "why": "digest", "next": "look", "status": 99}
        control.send_message(shim, fields)
        return 1
    if fault == "launcher_crashes":
        raise RuntimeError("boom")
    if fault == "launcher_lies":
        control.send_message(shim, {"kind": "nonsense"})
    ends = start_machine(guest, directory, fault)
    guest.close()
    argv = [BUSYBOX, "sh", "-c", STAND_IN, f"machine of {directory}"]
    control.send_message(shim, {"kind": "vm", "argv": argv, "fds": len(ends), "groups": []}, ends)
    for end in ends:
        os.close(end)
    control.send_message(shim, {"kind": "note", "text": "not\x1bsafe"}) if fault == "note" else None
    message = control.receive_message(shim)
    if message is None or message.kind != "start":
        (Path(directory).parent.parent / "stopped").touch()
        return 1
    if fault == "launcher_hangs":
        time.sleep(1000)
    return 0


if __name__ == "__main__":
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.exit(main())
