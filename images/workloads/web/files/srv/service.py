"""A web service on the guest's loopback, and its first customer: prints what it answered, then ends."""

import http.server
import json
import os
import platform
import threading
import urllib.request


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers GET with what machine this is; says nothing on stderr."""

    def do_GET(self) -> None:
        """Send one JSON object."""
        body = json.dumps({"path": self.path, "kernel": platform.release(), "pid": os.getpid()}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Drop the access log."""


def main() -> None:
    """Serve on a free port of the loopback, ask once, print the answer."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/who", timeout=10) as answer:
        print(f"{answer.status} {answer.read().decode()}")  # noqa: T201 - this is the workload's output
    server.shutdown()


main()
