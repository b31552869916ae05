from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sourcetars import (
    END,
    base256,
    directory,
    entry,
    header,
    layer,
    octal,
    padded,
    pax,
    record,
    symlink,
)

from krunpy.core.errors import FormatError, KrunpyError
from krunpy.image.blob import ChunkReader
from krunpy.image.layers import LayerStack
from krunpy.image.limits import Limits
from krunpy.image.tarstream import DIRECTORY, FILE, LINK, SYMLINK, Entry, read_entries


def entries(archive: bytes, step: int = 1 << 20) -> list[Entry]:
    chunks = (archive[start : start + step] for start in range(0, len(archive), step))
    return list(read_entries(ChunkReader(chunks), lambda: None))


def one(*parts: bytes) -> Entry:
    (found,) = entries(layer(*parts))
    return found


def test_data_is_where_the_entry_says() -> None:
    archive = layer(entry(b"a", b"x" * 700), entry(b"b", b"hello"))

    second = entries(archive)[1]

    assert archive[second.start : second.start + second.size] == b"hello"


@pytest.mark.parametrize("step", [1, 7, 512, 513, 4096])
def test_chunk_borders_do_not_matter(step: int) -> None:
    archive = layer(
        pax((b"path", b"long" * 200)), entry(b"a", b"x" * 700), directory(b"d/"), symlink(b"s", b"t")
    )

    assert entries(archive, step) == entries(archive)


def test_the_prefix_of_ustar_goes_before_the_name() -> None:
    assert one(entry(b"name", prefix=b"some/where")).name == b"some/where/name"


def test_the_prefix_of_old_gnu_headers_is_not_one() -> None:
    assert one(entry(b"name", prefix=b"some/where", magic=b"ustar  \0")).name == b"name"


def test_star_keeps_times_at_the_end_of_the_prefix() -> None:
    prefix = b"p".ljust(131, b"\0") + octal(5, 12) + octal(6, 12)

    assert one(entry(b"name", prefix=prefix, patch={508: b"tar\0"})).name == b"p/name"


def test_gnu_long_names_and_links_are_joined() -> None:
    name, target = b"n/" * 150 + b"x", b"t" * 300

    found = one(
        entry(b"././@LongLink", target + b"\0", b"K"),
        entry(b"././@LongLink", name + b"\0", b"L"),
        symlink(b"s", b"t"),
    )

    assert (found.name, found.link) == (name, target)


def test_an_extension_belongs_to_one_entry_only() -> None:
    first, second = entries(layer(pax((b"path", b"other"), (b"uid", b"7")), entry(b"a"), entry(b"b")))

    assert (first.name, first.uid, second.name, second.uid) == (b"other", 7, b"b", 0)


def test_pax_records_override_the_header() -> None:
    found = one(
        pax(
            (b"uid", b"4000000"), (b"gid", b"5"), (b"mtime", b"17.25"), (b"size", b"3"), (b"comment", b"x\0y")
        ),
        header(b"a", size=0) + padded(b"abc"),
    )

    assert (found.uid, found.gid, found.mtime, found.size) == (4000000, 5, 17, 3)


def test_an_empty_pax_record_takes_the_override_back() -> None:
    assert one(pax((b"path", b"")), entry(b"a")).name == b"a"


def test_a_global_header_changes_nothing() -> None:
    assert one(entry(b"g", record(b"path", b"all"), b"g"), entry(b"a")).name == b"a"


def test_numbers_may_be_in_base_256() -> None:
    found = one(header(b"a", size_field=base256(3, 12), uid_field=base256(1 << 21, 8)) + padded(b"abc"))

    assert (found.size, found.uid) == (3, 1 << 21)


def test_a_time_before_1970_is_read() -> None:
    assert one(header(b"a", mtime_field=(-5).to_bytes(12, "big", signed=True))).mtime == -5
    assert one(pax((b"mtime", b"-1.5")), entry(b"a")).mtime == -2


def test_links_and_directories_have_no_data_whatever_their_size_says() -> None:
    found = entries(layer(header(b"l", b"1", 5, link=b"a"), header(b"d", b"5", 7), entry(b"b", b"x")))

    assert [(each.kind, each.size) for each in found] == [(LINK, 0), (DIRECTORY, 0), (FILE, 1)]


def test_an_old_file_whose_name_ends_in_a_slash_is_a_directory() -> None:
    assert one(entry(b"d/", kind=b"\0", magic=bytes(8))).kind == DIRECTORY
    assert one(entry(b"d", kind=b"\0", magic=bytes(8))).kind == FILE


def test_a_checksum_of_signed_bytes_is_accepted() -> None:
    block = bytearray(header(b"\xff\xfe"))
    plain = sum(block) - sum(block[148:156]) + 256
    block[148:156] = octal(plain - 512, 7) + b" "

    assert entries(bytes(block) + END)[0].name == b"\xff\xfe"


def test_an_archive_may_end_without_zeros() -> None:
    assert len(entries(entry(b"a", b"x"))) == 1


def test_old_gnu_sparse_files_are_read() -> None:
    pairs = [(0, 512), (1024, 512), (4096, 512), (8192, 512)]
    more = [(16384, 100), (20000, 0)]
    block = {
        386: b"".join(octal(a, 12) + octal(b, 12) for a, b in pairs),
        482: b"\x01",
        483: octal(20000, 12),
    }
    second = b"".join(octal(a, 12) + octal(b, 12) for a, b in more).ljust(512, b"\0")
    stored = 512 * 4 + 100

    archive = layer(header(b"s", b"S", stored, patch=block) + second + padded(b"x" * stored), entry(b"after"))
    first, after = entries(archive)

    assert (first.size, first.start, after.name) == (20000, 1024, b"after")
    assert first.ranges == (*pairs, (16384, 100))


def sparse_records(version: bytes) -> tuple[tuple[bytes, bytes], ...]:
    shared = ((b"GNU.sparse.major", version[:1]), (b"GNU.sparse.minor", version[-1:]))
    if version == b"1.0":
        return (*shared, (b"GNU.sparse.name", b"real"), (b"GNU.sparse.realsize", b"5000"))
    if version == b"0.1":
        return (
            *shared,
            (b"GNU.sparse.name", b"real"),
            (b"GNU.sparse.size", b"5000"),
            (b"GNU.sparse.map", b"0,5,4000,3"),
        )
    numbers = ((b"GNU.sparse.offset", b"0"), (b"GNU.sparse.numbytes", b"5"))
    numbers += ((b"GNU.sparse.offset", b"4000"), (b"GNU.sparse.numbytes", b"3"))
    return (*shared, (b"path", b"real"), (b"GNU.sparse.size", b"5000"), *numbers)


@pytest.mark.parametrize("version", [b"0.0", b"0.1", b"1.0"])
def test_pax_sparse_files_are_read(version: bytes) -> None:
    data = b"abcdefgh"
    map_ = padded(b"2\n0\n5\n4000\n3\n") if version == b"1.0" else b""

    archive = layer(pax(*sparse_records(version)), entry(b"GNUSparseFile/x", map_ + data), entry(b"after"))
    first, after = entries(archive)

    assert (first.name, first.size, first.ranges, after.name) == (
        b"real",
        5000,
        ((0, 5), (4000, 3)),
        b"after",
    )
    assert archive[first.start : first.start + 8] == data


def sparse(map_: bytes, data: bytes = b"abcdefgh", size: bytes = b"5000") -> bytes:
    return layer(pax((b"GNU.sparse.size", size), (b"GNU.sparse.map", map_)), entry(b"a", data))


def sparse_1(data: bytes) -> bytes:
    return layer(pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"9")), entry(b"a", data))


BIG = b"9" * 30
MALFORMED = [
    (b"x" * 512, "checksum"),
    (header(b"a", checksum=1), "header checksum: seen"),
    (entry(b"a", b"x" * 600)[:-300], "cut off"),
    (header(b"a", size=5), "cut off"),
    (header(b"a")[:300], "cut off after 300 bytes"),
    (layer(entry(b"a", kind=b"Z")), "entry type: seen b'Z'"),
    (layer(entry(b"a", kind=b"D")), "entry type: seen b'D'"),
    (layer(header(b"a", size_field=b"12345678901z")), "size: seen"),
    (layer(header(b"a", size_field=b"00000000008\0")), "wanted octal digits"),
    (layer(header(b"a", size_field=b"0o000000017\0")), "wanted octal digits"),
    (layer(header(b"a", size_field=b"\xff" * 12)), "size: seen -1"),
    (layer(header(b"a", size_field=base256(1 << 80, 12))), "cut off"),
    (layer(header(b"x", b"x", 2 << 20)), "at most 1048576"),
    (layer(header(b"L", b"L", 1 << 40)), "octal|at most 1048576|cut off"),
    (layer(header(b"x", b"x", size_field=b"\xff" * 12)), "at most 1048576"),
    (layer(pax((b"path", b"x"))), "wanted the entry it belongs to"),
    (layer(entry(b"x", b"nonsense", b"x"), entry(b"a")), "pax record has no length"),
    (layer(entry(b"x", b"99 path=a\n", b"x"), entry(b"a")), "does not end with a line feed"),
    (layer(entry(b"x", b"10 path=abX", b"x"), entry(b"a")), "does not end with a line feed"),
    (layer(entry(b"x", b"3 \n", b"x"), entry(b"a")), "does not end|no key"),
    (layer(entry(b"x", b"0 path=a\n", b"x"), entry(b"a")), "does not end with a line feed"),
    (layer(entry(b"x", b"7 nokey\n"[:8], b"x"), entry(b"a")), "line feed|no key"),
    (layer(entry(b"x", b"-5 a=b\n", b"x"), entry(b"a")), "wanted decimal digits"),
    (layer(pax((b"path", b"a\0b")), entry(b"a")), "holds a zero byte"),
    (layer(pax((b"size", b"-1")), entry(b"a")), "pax size"),
    (layer(pax((b"size", BIG)), entry(b"a")), "pax size"),
    (layer(pax((b"uid", b"1e3")), entry(b"a")), "uid: seen"),
    (layer(pax((b"mtime", b"soon")), entry(b"a")), "mtime: seen"),
    (layer(pax((b"mtime", b"1.x")), entry(b"a")), "mtime: seen"),
    (sparse(b"0,5,3,3"), "wanted one of 5 to 5000"),
    (sparse(b"0,9000"), "sparse map: seen a range"),
    (sparse(b"0,5"), "hold 5 bytes, the archive 8"),
    (sparse(b"0,5,9"), "an offset without a length"),
    (sparse(b"0,x"), "wanted decimal digits"),
    (sparse(b"0,8", size=b""), "sparse size: seen b''"),
    (layer(pax((b"GNU.sparse.map", b"0,8")), entry(b"a", b"x" * 8)), "does not say its size"),
    (sparse_1(b"x" * 512), "no number of ranges"),
    (sparse_1(padded(b"9999999\n")), "9999999 ranges"),
    (sparse_1(padded(b"40\n")), "map is cut off"),
    (sparse_1(b""), "map is cut off"),
    (layer(header(b"s", b"S", 0, patch={482: b"\x01", 483: octal(9, 12)}))[:512], "map is cut off"),
]


@pytest.mark.parametrize(("archive", "fragment"), MALFORMED)
def test_a_malformed_tar_is_one_format_error(archive: bytes, fragment: str) -> None:
    with pytest.raises(FormatError, match=fragment):
        entries(archive)


def test_the_counter_sees_every_header() -> None:
    count = []
    archive = layer(
        pax((b"uid", b"1")), entry(b"L", b"name", b"L"), entry(b"a"), entry(b"g", record(b"a", b"b"), b"g")
    )

    list(read_entries(ChunkReader(iter([archive])), lambda: count.append(1)))

    assert len(count) == 4


name_parts = st.binary(min_size=1, max_size=40).filter(
    lambda each: not set(each) & set(b"\0/") and each not in (b".", b"..")
)
paths = st.lists(name_parts, min_size=1, max_size=6).map(b"/".join)
members = st.tuples(
    paths,
    st.sampled_from(["file", "directory", "symlink", "fifo"]),
    st.integers(0, 0o7777),
    st.integers(0, 1 << 31),
    st.integers(0, 1 << 33),
    st.binary(min_size=0, max_size=1500),
)


@given(
    st.lists(members, max_size=12),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.integers(1, 3000),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_the_standard_library_writes_is_read_back(
    wanted: list[tuple[bytes, str, int, int, int, bytes]], format_: int, step: int
) -> None:
    kinds = {
        "file": tarfile.REGTYPE,
        "directory": tarfile.DIRTYPE,
        "symlink": tarfile.SYMTYPE,
        "fifo": tarfile.FIFOTYPE,
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format_) as tar:
        for name, kind, mode, uid, mtime, data in wanted:
            info = tarfile.TarInfo(name.decode(errors="surrogateescape"))
            info.type, info.mode, info.uid, info.mtime = kinds[kind], mode, uid, mtime
            info.linkname = (
                data[:300].replace(b"\0", b"/").decode(errors="surrogateescape") if kind == "symlink" else ""
            )
            info.size = len(data) if kind == "file" else 0
            tar.addfile(info, io.BytesIO(data))
    archive = buffer.getvalue()

    found = entries(archive, step)

    assert len(found) == len(wanted)
    for each, (name, kind, mode, uid, mtime, data) in zip(found, wanted, strict=True):
        assert (each.name.rstrip(b"/"), each.mode, each.uid, each.mtime) == (name, mode, uid, mtime)
        if kind == "file":
            assert archive[each.start : each.start + each.size] == data
        if kind == "symlink":
            assert (each.kind, each.link) == (SYMLINK, data[:300].replace(b"\0", b"/"))


SOUND = layer(
    directory(b"d/"),
    entry(b"d/a", b"x" * 600),
    pax((b"path", b"n" * 200), (b"SCHILY.xattr.user.a", b"b")),
    entry(b"b", b"y"),
    symlink(b"s", b"d"),
    entry(b"s/in", b"z"),
    entry(b"././@LongLink", b"l" * 120 + b"\0", b"L"),
    entry(b"c"),
    pax((b"GNU.sparse.size", b"5000"), (b"GNU.sparse.map", b"0,5,4000,3")),
    entry(b"sp", b"abcdefgh"),
    entry(b"d/.wh.q"),
)


def apply(archive: bytes) -> None:
    found = LayerStack(Limits(entries=1000))
    found.apply(0, read_entries(ChunkReader(iter([archive] if archive else [])), lambda: None))
    found.finish()


@given(
    damage=st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    mends=st.booleans(),
)
@settings(max_examples=400, deadline=None)
def test_a_damaged_tar_is_read_or_refused_but_never_a_traceback(
    *, damage: list[tuple[int, int]], mends: bool
) -> None:
    archive = bytearray(SOUND)
    for offset, octet in damage:
        archive[offset] = octet
        if mends:  # make the checksum right again, so that the damage gets further
            start = offset - offset % 512
            block = archive[start : start + 512]
            block[148:156] = b" " * 8
            archive[start + 148 : start + 156] = octal(sum(block), 7) + b" "

    try:
        apply(bytes(archive))
    except KrunpyError as error:
        reason = error.why
    else:
        reason = "read"

    assert reason


@given(st.binary(max_size=3000))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_tar_or_a_format_error(archive: bytes) -> None:
    try:
        entries(archive)
    except FormatError as error:
        reason = error.why
    else:
        reason = "read"

    assert reason
