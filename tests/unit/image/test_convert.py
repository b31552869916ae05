from __future__ import annotations

import hashlib
import os
import resource
import signal
import threading

import pytest
from disk_fakes import ErofsReader, MemorySource, decrypt, directory, file, flatten, root_hash

from krunpy.core.errors import BundleError, HostError, UsageError
from krunpy.core.octets import PublicKey32, Secret
from krunpy.formats.manifest import (
    Manifest,
    Process,
    ServerIdentity,
    encode_manifest,
    parse_manifest,
)
from krunpy.image.cache import ImageCache
from krunpy.image.convert import ConvertOptions, convert
from krunpy.image.keys import load_build_secret, load_disk_key

SECRET = Secret(bytes(range(32)))
PLAIN = ConvertOptions(encrypt=False)
SEALED = ConvertOptions(build_secret=SECRET)
MARKER = b"MARKER-9f8e7d6c5b4a"


def make_tree():
    big = file(os.urandom(1000) * 3000, mode=0o4755, uid=7, mtime=1_700_000_000)
    return directory(
        {b"bin": directory({b"sh": big, b"ash": big}), b"marker": file(MARKER * 900), MARKER: file(b"")}
    )


@pytest.fixture
def cache(tmp_path) -> ImageCache:
    return ImageCache(str(tmp_path / "cache"), lambda: 1000.0)


def list_files(directory: str) -> list[str]:
    return [os.path.join(root, name) for root, _, names in os.walk(directory) for name in names]


def leftovers(cache: ImageCache) -> list[str]:
    return os.listdir(f"{cache.directory}/tmp") + os.listdir(f"{cache.directory}/images")


@pytest.mark.parametrize("options", [PLAIN, SEALED])
def test_the_image_holds_the_tree(cache: ImageCache, options: ConvertOptions) -> None:
    tree = make_tree()

    image = convert(MemorySource(tree), cache=cache, options=options)

    with open(image.disk_path, "rb") as stream:
        raw = stream.read()
    disk = image.disk
    payload = raw[disk.payload_offset : disk.payload_offset + disk.payload_size]
    if options.encrypt:
        payload = decrypt(load_disk_key(image, SECRET).reveal(), payload)
    assert ErofsReader(payload).flatten() == flatten(tree)
    assert disk.root_hash == root_hash(raw, disk.data_blocks, disk.salt)
    assert image.size == len(raw)


def test_the_disk_fits_a_manifest(cache: ImageCache) -> None:
    image = convert(MemorySource(make_tree()), cache=cache, options=SEALED)
    manifest = Manifest(
        workload="w",
        disk=image.disk,
        process=Process(args=("sh",)),
        tees=("software",),
        server=ServerIdentity(url="http://h", key=PublicKey32(bytes(32))),
    )

    assert parse_manifest(encode_manifest(manifest)).disk == image.disk


def test_the_same_source_is_converted_once(cache: ImageCache) -> None:
    tree = make_tree()
    first, second = MemorySource(tree), MemorySource(tree)

    image = convert(first, cache=cache, options=SEALED)

    assert convert(second, cache=cache, options=SEALED) == image
    assert (first.streamed, second.streamed) == (1, 0)


def test_integrity_only_images_of_one_source_are_one(tmp_path) -> None:
    tree = make_tree()
    images = [
        convert(
            MemorySource(tree, piece=size),
            cache=ImageCache(str(tmp_path / str(size)), lambda: 1.0),
            options=PLAIN,
        )
        for size in (777, 1 << 20)
    ]

    assert images[0].image_id == images[1].image_id
    assert images[0].disk.root_hash == images[1].disk.root_hash


def test_a_given_key_gives_one_disk_and_opens_it(tmp_path) -> None:
    tree, key = make_tree(), Secret(bytes(range(64)))
    images = [
        convert(
            MemorySource(tree),
            cache=ImageCache(str(tmp_path / name), lambda: 1),
            options=ConvertOptions(key=key),
        )
        for name in "ab"
    ]

    assert images[0] == images[1]
    assert load_disk_key(images[0], key) == key


def test_each_image_has_a_key_of_its_own(tmp_path) -> None:
    tree = make_tree()
    images = [
        convert(MemorySource(tree), cache=ImageCache(str(tmp_path / name), lambda: 1), options=SEALED)
        for name in "ab"
    ]

    assert images[0].disk.root_hash != images[1].disk.root_hash
    assert load_disk_key(images[0], SECRET) != load_disk_key(images[1], SECRET)


def test_forms_and_secrets_do_not_share_an_entry(cache: ImageCache) -> None:
    tree = make_tree()
    other = ConvertOptions(build_secret=Secret(bytes(32)))

    ids = {
        convert(MemorySource(tree), cache=cache, options=options).image_id
        for options in (PLAIN, SEALED, other)
    }

    assert len(ids) == 3


def test_another_build_secret_is_refused(cache: ImageCache) -> None:
    image = convert(MemorySource(make_tree()), cache=cache, options=SEALED)

    with pytest.raises(HostError, match="another build secret"):
        load_disk_key(image, Secret(bytes(32)))


def test_an_image_that_is_not_encrypted_has_no_key(cache: ImageCache) -> None:
    image = convert(MemorySource(make_tree()), cache=cache, options=PLAIN)

    with pytest.raises(UsageError, match="not encrypted"):
        load_disk_key(image, SECRET)


def test_neither_contents_nor_names_nor_keys_lie_under_the_cache(cache: ImageCache) -> None:
    image = convert(MemorySource(make_tree()), cache=cache, options=SEALED)
    key = load_disk_key(image, SECRET).reveal()

    for path in list_files(cache.directory):
        with open(path, "rb") as stream:
            contents = stream.read()
        for secret in (
            MARKER,
            SECRET.reveal(),
            key[:32],
            key[32:],
            key.hex().encode(),
            SECRET.reveal().hex().encode(),
        ):
            assert secret not in contents, path


def test_the_marker_would_be_found_in_the_clear(cache: ImageCache) -> None:
    image = convert(MemorySource(make_tree()), cache=cache, options=PLAIN)

    with open(image.disk_path, "rb") as stream:
        assert MARKER in stream.read()


def test_a_racy_source_is_converted_every_time(cache: ImageCache) -> None:
    source = MemorySource(make_tree(), racy=True)

    convert(source, cache=cache, options=SEALED)
    convert(source, cache=cache, options=SEALED)

    assert source.streamed == 2


def test_eight_at_once_do_the_work_once(tmp_path) -> None:
    sources = [MemorySource(make_tree()) for _ in range(1)]
    sources += [MemorySource(sources[0].tree) for _ in range(7)]
    found = []

    def run(source: MemorySource) -> None:
        cache = ImageCache(str(tmp_path / "cache"), lambda: 1.0)
        found.append(convert(source, cache=cache, options=SEALED))

    threads = [threading.Thread(target=run, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 8
    assert len({image.image_id for image in found}) == 1
    assert sum(source.streamed for source in sources) == 1


@pytest.mark.parametrize(
    "error", [BundleError("w", why="changed"), KeyboardInterrupt(), OSError(5, "broken disk")]
)
@pytest.mark.parametrize("moment", ["stream", "finish"])
def test_a_failed_conversion_leaves_nothing(cache: ImageCache, error: BaseException, moment: str) -> None:
    class Failing(MemorySource):
        def stream(self):
            pieces = super().stream()
            yield next(pieces)
            if moment == "stream":
                raise error
            yield from pieces

        def finish(self) -> None:
            raise error

    wanted = HostError if isinstance(error, OSError) else type(error)
    with pytest.raises(wanted):
        convert(Failing(make_tree(), piece=4096), cache=cache, options=SEALED)

    assert leftovers(cache) == []
    assert os.listdir(f"{cache.directory}/index") == []


def test_a_killed_conversion_is_cleaned_up_by_the_next(cache: ImageCache) -> None:
    tree = make_tree()

    class Killed(MemorySource):
        def stream(self):
            yield next(super().stream())
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        convert(Killed(tree, piece=4096), cache=cache, options=SEALED)
        os._exit(0)
    os.waitpid(child, 0)
    assert len(leftovers(cache)) == 1

    image = convert(MemorySource(tree), cache=cache, options=SEALED)

    assert leftovers(cache) == [image.image_id]


def test_a_source_that_is_larger_than_the_disk_says_how_much(cache: ImageCache) -> None:
    tree = directory({b"huge": file(b"")})
    tree.children[b"huge"].size = 1 << 43

    with pytest.raises(HostError, match=r"the image needs 8\d+ bytes, \d+ are free in"):
        convert(MemorySource(tree), cache=cache, options=SEALED)
    assert leftovers(cache) == []


def test_a_disk_that_is_full_midway_is_one_error(cache: ImageCache) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(HostError, match="the image needs"):
            convert(MemorySource(make_tree()), cache=cache, options=SEALED)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert leftovers(cache) == []


def test_progress_ends_at_the_whole(cache: ImageCache) -> None:
    seen: list[tuple[int, int]] = []
    tree = directory({b"f": file(os.urandom(9 << 20))})

    convert(
        MemorySource(tree),
        cache=cache,
        options=PLAIN,
        progress=lambda done, total: seen.append((done, total)),
    )

    assert seen == [(4 << 20, 9 << 20), (8 << 20, 9 << 20), (9 << 20, 9 << 20)]


def test_options_want_exactly_one_secret() -> None:
    for wrong in ({}, {"key": Secret(bytes(64)), "build_secret": SECRET}, {"key": Secret(bytes(32))}):
        with pytest.raises(ValueError, match="key"):
            ConvertOptions(**wrong)


def test_the_build_secret_is_made_once_and_private(tmp_path) -> None:
    directory = str(tmp_path / "data")
    found = []
    threads = [threading.Thread(target=lambda: found.append(load_build_secret(directory))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found[0]) == 32
    assert all(secret == found[0] for secret in found)
    assert os.stat(f"{directory}/build.secret").st_mode & 0o777 == 0o600
    assert hashlib.sha256(found[0].reveal()).digest() != hashlib.sha256(bytes(32)).digest()


@pytest.mark.parametrize(
    ("contents", "mode", "why"),
    [
        (b"x" * 32, 0o644, "only this user"),
        (b"x" * 31, 0o600, "31 bytes"),
        (b"x" * 40, 0o600, "it has 40 bytes"),
    ],
)
def test_a_build_secret_that_is_open_or_damaged_is_refused(
    tmp_path, contents: bytes, mode: int, why: str
) -> None:
    from krunpy.core.errors import KrunpyError

    path = tmp_path / "build.secret"
    path.write_bytes(contents)
    path.chmod(mode)

    with pytest.raises(KrunpyError, match=why):
        load_build_secret(str(tmp_path))
