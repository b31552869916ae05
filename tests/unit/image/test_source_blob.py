from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sourcetars import squeezed

from krunpy.core.errors import FormatError
from krunpy.image.blob import gunzip


def expanded(stored: bytes, step: int) -> bytes:
    return b"".join(
        chunk for chunk, _ in gunzip(stored[start : start + step] for start in range(0, len(stored), step))
    )


@given(st.lists(st.binary(max_size=3000), min_size=1, max_size=4), st.integers(1, 200), st.integers(0, 600))
@settings(max_examples=60, deadline=None)
def test_gzip_members_are_joined_and_zeros_after_them_ignored(
    parts: list[bytes], step: int, zeros: int
) -> None:
    assert expanded(b"".join(squeezed(part) for part in parts) + bytes(zeros), step) == b"".join(parts)


def test_a_highly_compressed_file_comes_in_bounded_pieces() -> None:
    stored = squeezed(bytes(50 << 20))

    sizes = [len(chunk) for chunk, _ in gunzip(iter([stored]))]

    assert sum(sizes) == 50 << 20
    assert max(sizes) <= 1 << 20


@pytest.mark.parametrize(
    ("stored", "fragment"),
    [
        (b"", "empty"),
        (squeezed(b"x" * 100)[:-1], "cut off"),
        (squeezed(b"x" * 100)[:12], "cut off"),
        (squeezed(b"x") + b"rubbish", "header check"),
        (squeezed(b"x" * 100)[:-8] + b"\1" * 8, "data check"),
        (b"\x1f\x8b" + b"\xff" * 50, "method|header"),
    ],
)
def test_a_damaged_gzip_is_one_format_error(stored: bytes, fragment: str) -> None:
    with pytest.raises(FormatError, match=fragment):
        expanded(stored, 7)
