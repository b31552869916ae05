"""`buildah mkcw --attestation-url` as it is, registering at a server process by an invitation's URL.

KRUNPY_BUILDAH names a buildah of 1.32 or newer, to run as root. The launch digest, for which it asks a program of
libkrunfw, is made up here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from krunpy.core.errors import ToolError
from krunpy.core.proc import run
from krunpy.server.database import Database
from krunpy.server.reference_kbs_store import add_invitation, make_invitation_token
from krunpy.server.workloads import find_workload
from tests.fakes.serving import serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BUILDAH = os.environ.get("KRUNPY_BUILDAH", "")
DIGEST = "a" * 96
LATER = 4_000_000_000  # seconds since 1970
pytestmark = [
    pytest.mark.skipif(not BUILDAH, reason="KRUNPY_BUILDAH names no buildah that has mkcw"),
    pytest.mark.skipif(os.geteuid() != 0, reason="buildah needs root here"),
]


@pytest.fixture
def buildah(tmp_path: Path) -> Callable[..., None]:
    """buildah with an image of its own store, localhost/plain."""
    tool = tmp_path / "bin/krunfw_measurement"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\necho 'SNP: {DIGEST}'\n")
    tool.chmod(0o755)
    (tmp_path / "libkrunfw-sev.so.4").touch()
    path = f"{tool.parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    storage = [
        "--root",
        str(tmp_path / "root"),
        "--runroot",
        str(tmp_path / "run"),
        "--storage-driver",
        "vfs",
    ]

    def call(*words: str) -> None:
        environment = {"PATH": path, "LD_LIBRARY_PATH": str(tmp_path)}
        run(["unshare", "-m", BUILDAH, *storage, *words], timeout_s=300, env=environment)

    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/hello").write_text("hello")
    call("from", "--name", "made", "scratch")
    call("add", "-q", "made", str(tmp_path / "tree"), "/")
    call("commit", "-q", "made", "localhost/plain")
    return call


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Database]]:
    """The server's URL, and its store."""
    with serve(str(tmp_path / "store"), serves_reference_kbs=True) as serving:
        database = Database(str(tmp_path / "store/store.sqlite3"))
        yield serving.url, database
        database.close()


def test_buildah_registers_by_an_invitation_and_in_no_other_way(
    buildah: Callable[..., None], server: tuple[str, Database]
) -> None:
    url, database = server
    token = make_invitation_token()
    with database.change() as connection:
        add_invitation(connection, token, workload="", policy={}, now_s=1, expires_at=LATER)
    invited = f"{url}/r/{token.reveal().decode()}"

    def convert(attestation_url: str, passphrase: str, *words: str) -> None:
        given = ("-u", attestation_url, "-p", passphrase, *words)
        buildah("mkcw", "-t", "snp", *given, "localhost/plain", "localhost/cw")

    with pytest.raises(ToolError, match="404"):
        convert(url, "secret123", "-w", "web")
    with pytest.raises(ToolError, match="400"):  # buildah's own id: 64 digits
        convert(invited, "secret123")
    convert(invited, "secret123", "-w", "web")
    convert(invited, "secret123", "-w", "web")
    with pytest.raises(ToolError, match="409"):
        convert(invited, "other", "-w", "web")

    with database.look() as connection:
        workload = find_workload(connection, "web", now_s=1)
    assert workload is not None
    assert workload.policy == {"allow_smt": True}
    assert [value.to_document()["launch_digest"] for value in workload.reference_values] == [DIGEST]
