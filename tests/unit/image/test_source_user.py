from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sourcetars import Layout, entry, layer, symlink

from krunpy.core.errors import BundleError
from krunpy.image.rootfs_user import resolve_user
from krunpy.image.source import open_source

if TYPE_CHECKING:
    from pathlib import Path

    from krunpy.image.tree import Source

PASSWD = b"""# a comment
root:x:0:0:root:/root:/bin/sh
broken
bad:x:-1:5::/:
www:x:33:34::/var/www:/bin/false
42:x:77:78::/:
odd\xff:x:9:9::/:
"""
GROUP = b"root:x:0:\nwww:x:34:\ntape:x:26:root,www\naudio:x:29:www\nmine:x:34:www\nshort:x\n"


@pytest.fixture
def source(tmp_path: Path) -> Source:
    files = layer(
        entry(b"usr/etc/passwd", PASSWD),
        symlink(b"etc/passwd", b"/usr/etc/passwd"),
        entry(b"etc/group", GROUP),
    )
    return open_source(Layout([files]).write(tmp_path / "image"))


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", (0, 0, (26,))),
        ("root", (0, 0, (26,))),
        ("0", (0, 0, (26,))),
        ("www", (33, 34, (26, 29))),
        ("33", (33, 34, (26, 29))),
        ("www:", (33, 34, (26, 29))),
        ("www:tape", (33, 26, ())),
        ("www:1000", (33, 1000, ())),
        ("5:6", (5, 6, ())),
        ("5", (5, 0, ())),
        (":tape", (0, 26, ())),
        ("4294967294", (4294967294, 0, ())),
        ("42", (77, 78, ())),
    ],
)
def test_users_are_resolved_as_container_engines_do(source: Source, user: str, expected: object) -> None:
    assert resolve_user(source, user) == expected


@pytest.mark.parametrize(
    "user", ["nobody", "www:none", "-1", "4294967295", "5:4294967295", "bad", " ", "www:tape:x"]
)
def test_unknown_users_and_groups_are_refused_by_name(source: Source, user: str) -> None:
    with pytest.raises(BundleError, match=r"cannot resolve user .*is not in the image's /etc/"):
        resolve_user(source, user)


def test_an_image_without_passwd_knows_numbers_only(tmp_path: Path) -> None:
    source = open_source(Layout([layer(entry(b"app", b"x"))]).write(tmp_path / "image"))

    assert resolve_user(source, "") == (0, 0, ())
    assert resolve_user(source, "5:6") == (5, 6, ())
    with pytest.raises(BundleError, match="cannot resolve user 'www'"):
        resolve_user(source, "www")
