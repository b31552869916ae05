from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest
from disk_fakes import MemorySource, directory, file

from krunpy.core.errors import FormatError, StateError, UsageError
from krunpy.image.cache import ImageCache
from krunpy.image.convert import ConvertOptions, convert
from krunpy.image.workload import WorkloadImage, encode_image, parse_image

if TYPE_CHECKING:
    from collections.abc import Callable

PLAIN = ConvertOptions(encrypt=False)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(tmp_path, clock) -> ImageCache:
    return ImageCache(str(tmp_path / "cache"), clock)


def make(cache: ImageCache, content: bytes = b"x") -> WorkloadImage:
    return convert(MemorySource(directory({b"f": file(content)})), cache=cache, options=PLAIN)


def test_images_are_listed_oldest_first(cache: ImageCache, clock: Clock) -> None:
    first = make(cache, b"1")
    clock.now = 2000
    second = make(cache, b"2")

    assert cache.list_images() == (first, second)


def test_directories_are_private(cache: ImageCache) -> None:
    image = make(cache)

    assert {os.stat(path).st_mode & 0o777 for path in (cache.directory, image.directory)} == {0o700}
    assert os.stat(image.disk_path).st_mode & 0o777 == 0o600


def test_a_description_reads_back(cache: ImageCache) -> None:
    image = make(cache)

    assert parse_image(encode_image(image), image.directory) == image


@pytest.mark.parametrize("member", ["id", "disk", "config", "created", "key_id", "version", "size"])
def test_a_description_without_a_member_is_refused(cache: ImageCache, member: str) -> None:
    document = json.loads(encode_image(make(cache)))
    del document[member]

    with pytest.raises(FormatError, match=f'"{member}" is missing'):
        parse_image(
            json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(), "/d"
        )


def test_a_description_of_another_disk_is_refused(cache: ImageCache) -> None:
    image = make(cache)
    data = encode_image(image)
    root = image.disk.root_hash.hex().encode()
    wrong = data.replace(root, root[::-1])

    with pytest.raises(FormatError, match="its id is not that of its contents"):
        parse_image(wrong, "/d")


def test_a_description_of_a_disk_that_cannot_be_is_refused(cache: ImageCache) -> None:
    data = encode_image(make(cache))
    wrong = data.replace(b'"data_blocks":', b'"data_blocks":1')

    with pytest.raises(FormatError, match="hash tree lies inside the covered area"):
        parse_image(wrong, "/d")


def test_an_image_is_removed(cache: ImageCache) -> None:
    image = make(cache)

    cache.remove(image.image_id)

    assert cache.list_images() == ()
    assert os.listdir(f"{cache.directory}/tmp") == []


def test_an_image_in_use_is_neither_removed_nor_pruned(cache: ImageCache) -> None:
    image = make(cache)
    held = cache.hold(image)

    with pytest.raises(StateError, match="a container uses it"):
        cache.remove(image.image_id)
    assert cache.is_held(image.image_id)
    assert cache.prune() == ()

    os.close(held)
    assert not cache.is_held(image.image_id)
    assert cache.prune() == (image.image_id,)


def test_two_may_hold_one_image(cache: ImageCache) -> None:
    image = make(cache)
    first, second = cache.hold(image), cache.hold(image)
    os.close(first)

    with pytest.raises(StateError, match="a container uses it"):
        cache.remove(image.image_id)
    os.close(second)


def test_an_image_that_was_removed_cannot_be_held(cache: ImageCache) -> None:
    image = make(cache)
    cache.remove(image.image_id)

    with pytest.raises(StateError, match="was removed from the cache"):
        cache.hold(image)


def test_prune_keeps_what_was_used_lately(cache: ImageCache, clock: Clock) -> None:
    old, used = make(cache, b"old"), make(cache, b"used")
    clock.now = 5000
    make(cache, b"used")

    assert cache.prune(unused_s=3600) == (old.image_id,)
    assert cache.list_images() == (used,)


def test_a_removed_image_is_made_again(cache: ImageCache) -> None:
    image = make(cache)
    cache.remove(image.image_id)

    assert make(cache) == image
    assert cache.list_images() == (image,)


@pytest.mark.parametrize("damage", ["shorter", "no disk", "no description", "description"])
def test_a_damaged_image_is_not_used_and_is_replaced(cache: ImageCache, damage: str) -> None:
    image = make(cache)
    if damage == "shorter":
        os.truncate(image.disk_path, image.size - 1)
    elif damage == "no disk":
        os.unlink(image.disk_path)
    elif damage == "no description":
        os.unlink(f"{image.directory}/image.json")
    else:
        with open(f"{image.directory}/image.json", "r+b") as stream:
            stream.write(b"[")

    assert cache.list_images() == ()
    assert make(cache) == image
    assert os.stat(image.disk_path).st_size == image.size


def test_prune_removes_damaged_images_whatever_their_age(cache: ImageCache) -> None:
    image = make(cache)
    os.truncate(image.disk_path, 0)

    assert cache.prune(unused_s=3600) == (image.image_id,)


def test_an_index_entry_that_leads_nowhere_goes(cache: ImageCache) -> None:
    cache.write_index("k", "0" * 64)
    cache.write_index("odd", "../../etc")

    assert cache.find("odd") is None
    cache.prune()

    assert os.listdir(f"{cache.directory}/index") == []


def test_an_id_is_found_by_its_beginning(cache: ImageCache) -> None:
    image = make(cache)

    assert cache.resolve(image.image_id[:6]) == image.image_id
    with pytest.raises(UsageError, match="4 to 64 hex digits"):
        cache.resolve("../x")
    with pytest.raises(StateError, match="not in the cache"):
        cache.resolve("0" * 64)


@pytest.mark.parametrize("name", ["..", "../images", "0" * 64, "", "x\n"])
def test_a_name_that_is_no_image_is_not_removed(cache: ImageCache, name: str) -> None:
    make(cache)

    with pytest.raises(StateError, match="not in the cache"):
        cache.remove(name)
    assert len(cache.list_images()) == 1


def test_a_conversions_lock_is_gone_when_nobody_holds_it(cache: ImageCache) -> None:
    with cache.converting("a" * 64):
        assert os.listdir(f"{cache.directory}/locks") == ["a" * 64]
    make(cache)

    assert os.listdir(f"{cache.directory}/locks") == []


def test_who_waited_for_a_lock_that_was_removed_waits_for_the_new_one(cache: ImageCache) -> None:
    """Three callers: the first holds the lock, the second waits for it, the third comes when it is removed."""
    order: list[str] = []
    first_may_end, third_may_end = threading.Event(), threading.Event()

    def hold(name: str, event: threading.Event | None) -> None:
        with cache.converting("k"):
            order.append(f"{name} in")
            if event:
                assert event.wait(20)
            order.append(f"{name} out")

    threads = [threading.Thread(target=hold, args=("first", first_may_end))]
    threads[0].start()
    wait_until(lambda: order == ["first in"])
    threads.append(threading.Thread(target=hold, args=("second", None)))
    threads[1].start()
    threads.append(threading.Thread(target=hold, args=("third", third_may_end)))
    threads[2].start()
    first_may_end.set()
    third_may_end.set()
    for thread in threads:
        thread.join(20)

    assert len(order) == 6
    assert all(order[i].split()[0] == order[i + 1].split()[0] for i in (0, 2, 4))  # one at a time
    assert os.listdir(f"{cache.directory}/locks") == []


def test_a_lock_that_its_holder_removed_is_not_taken_for_the_one_of_that_name(cache: ImageCache) -> None:
    path = f"{cache.directory}/locks/k"
    with open(path, "w") as old:
        fcntl.flock(old, fcntl.LOCK_EX)
        inside = threading.Event()

        def enter() -> None:
            with cache.converting("k"):
                inside.set()

        thread = threading.Thread(target=enter)
        thread.start()
        wait_until(lambda: count_open(path) == 2)
        os.unlink(path)
        with open(path, "w") as new:
            fcntl.flock(new, fcntl.LOCK_EX)
            fcntl.flock(old, fcntl.LOCK_UN)
            assert not inside.wait(0.3)
    assert inside.wait(20)
    thread.join(20)


def count_open(path: str) -> int:
    """Return how many descriptors of this process are open on a path."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{name}") == path
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("it did not happen")
