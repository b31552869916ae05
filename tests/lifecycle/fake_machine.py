"""A machine without a VM: runs the container's process in a chroot and plays the agent on the channel.

Usage: fake_machine.py CHANNEL_FD STATE_DIR FAULT
"""

import json
import os
import select
import socket
import struct
import subprocess
import sys
from pathlib import Path

HEADER = struct.Struct("<BBHI")
STARTED, OUTPUT, STDIN_ACK, EXIT, FAIL, NOTE = 4, 5, 6, 7, 8, 9
STDIN, STDIN_EOF, SIGNAL = 0x86, 0x87, 0x88


def frame(kind, payload=b"", stream=0):
    return HEADER.pack(kind, stream, 0, len(payload)) + payload


class Agent:
    def __init__(self, channel, process):
        self.channel, self.process = channel, process
        self.incoming, self.stdin = b"", b""
        self.eof = False
        self.open = {process.stdout.fileno(): 1, process.stderr.fileno(): 2}
        os.set_blocking(process.stdin.fileno(), False)

    def run(self):
        while self.open:
            poller = select.poll()
            poller.register(self.channel, select.POLLIN)
            for descriptor in self.open:
                poller.register(descriptor, select.POLLIN)
            if self.process.stdin and (self.stdin or self.eof):
                poller.register(self.process.stdin.fileno(), select.POLLOUT)
            for descriptor, _ in poller.poll():
                if descriptor == self.channel.fileno():
                    self.receive()
                elif descriptor in self.open:
                    data = os.read(descriptor, 65536)
                    self.channel.sendall(frame(OUTPUT, data, self.open[descriptor]))
                    if not data:
                        del self.open[descriptor]
                elif self.process.stdin:
                    self.feed()
        code = self.process.wait()
        self.channel.sendall(frame(EXIT, bytes([1, -code]) if code < 0 else bytes([0, code])))

    def feed(self):
        try:
            count = os.write(self.process.stdin.fileno(), self.stdin[:4096]) if self.stdin else 0
        except BlockingIOError:
            return
        except BrokenPipeError:
            count = len(self.stdin)
        self.stdin = self.stdin[count:]
        if count:
            self.channel.sendall(frame(STDIN_ACK, struct.pack("<I", count)))
        if self.eof and not self.stdin:
            self.process.stdin.close()
            self.process.stdin = None

    def receive(self):
        data = self.channel.recv(65536)
        if not data:
            os._exit(1)
        self.incoming += data
        while len(self.incoming) >= 8:
            kind, _, _, length = HEADER.unpack(self.incoming[:8])
            if len(self.incoming) < 8 + length:
                return
            payload, self.incoming = self.incoming[8 : 8 + length], self.incoming[8 + length :]
            if kind == STDIN:
                self.stdin += payload
                assert len(self.stdin) <= 65536
            elif kind == STDIN_EOF:
                self.eof = True
            elif kind == SIGNAL:
                os.kill(self.process.pid, payload[0])


def play(fault, channel):
    """Do what no honest agent does."""
    if fault == "dies":
        print("kernel panic: not\x1b[2J syncing", flush=True)
        os._exit(3)
    if fault == "garbage":
        channel.sendall(os.urandom(1 << 20))
    if fault == "host_frame":
        channel.sendall(frame(STDIN, b"x"))
    if fault == "huge":
        channel.sendall(HEADER.pack(OUTPUT, 1, 0, 1 << 31))
    if fault == "stream":
        channel.sendall(frame(OUTPUT, b"x", 7))
    if fault == "ack":
        channel.sendall(frame(STDIN_ACK, struct.pack("<I", 1)))
    if fault == "started_twice":
        channel.sendall(frame(STARTED, bytes(48)) * 2)
    if fault == "fail":
        channel.sendall(frame(FAIL, struct.pack("<H", 8) + b"block 7 is corrupt"))
    if fault == "unknown_fail":
        channel.sendall(frame(FAIL, struct.pack("<H", 999) + b"\x1b\xff"))
    if fault == "notes":
        while True:
            channel.sendall(frame(NOTE, b"n" * 512))
    if fault == "console":
        while True:
            os.write(1, b"c" * 4096)
    if fault == "after_exit":
        channel.sendall(frame(EXIT, b"\0\x07") + frame(OUTPUT, b"late", 1) + b"\xff" * 100)
    if fault == "silent":
        channel.recv(1)


def main():
    channel = socket.socket(fileno=int(sys.argv[1]))
    directory, fault = sys.argv[2], sys.argv[3]
    if fault == "early_death":
        os._exit(4)
    play(fault, channel)
    config = json.loads(Path(directory, "config.json").read_text())
    record = dict(line.split("=", 1) for line in Path(directory, "state").read_text().splitlines())
    process = config["process"]
    channel.sendall(frame(STARTED, struct.pack("<6Q", 1, 2, 3, 4, 5, 6)))
    if fault == "note":
        channel.sendall(frame(NOTE, b"hostname refused"))

    def enter():
        os.chroot(record["rootfs"])
        os.chdir(process["cwd"])
        os.setgid(process["user"]["gid"])
        os.setuid(process["user"]["uid"])

    pipe = subprocess.PIPE
    environment = dict(item.split("=", 1) for item in process["env"])
    try:
        child = subprocess.Popen(
            process["args"],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=environment,
            preexec_fn=enter,  # noqa: PLW1509
        )
    except OSError as error:
        status = 127 if isinstance(error, FileNotFoundError) else 126
        channel.sendall(frame(OUTPUT, f"{error}\n".encode(), 2) + frame(EXIT, bytes([0, status])))
        return
    Agent(channel, child).run()


if __name__ == "__main__":
    main()
