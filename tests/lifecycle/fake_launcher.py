"""A launcher without conversion, server and VM: asks for the fake machine, waits for `start`, ends.

Usage: fake_launcher.py STATE_DIR, with the sockets of krunpy.runtime.control. FAKE in process.env picks a fault.
"""

import json
import os
import socket
import sys
import time
from pathlib import Path

from krunpy.runtime import control

MACHINE = str(Path(__file__).with_name("fake_machine.py"))


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
    argv = [sys.executable, "-I", MACHINE, "{fd0}", directory, fault]
    control.send_message(shim, {"kind": "vm", "argv": argv, "fds": 1}, [guest.fileno()])
    guest.close()
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
