import os

from krunpy.core.settings import Settings
from krunpy.runtime.handover import KEPT_S, hand_over, is_waiting, take


def settings(tmp_path):
    return Settings(data_dir=str(tmp_path / "data"), cache_dir="/nowhere", guest_dir="/nowhere")


def test_a_use_is_taken_once_by_whoever_is_first(tmp_path):
    known = settings(tmp_path)
    token = hand_over(known, "w-1")

    assert is_waiting(known, token, "w-1")
    assert not is_waiting(known, token, "w-2")
    assert take(known, token) == "w-1"
    assert take(known, token) == ""
    assert not is_waiting(known, token, "w-1")


def test_two_containers_of_one_workload_have_a_use_each(tmp_path):
    known = settings(tmp_path)
    first, second = hand_over(known, "w-1"), hand_over(known, "w-1")

    assert take(known, first) == "w-1"
    assert is_waiting(known, second, "w-1")


def test_what_an_image_made_up_stands_for_nothing(tmp_path):
    known = settings(tmp_path)
    hand_over(known, "w-1")
    (tmp_path / "data/secret").write_text("x")

    for token in (None, "", "w-1", "../secret", "0" * 32):
        assert take(known, token) == ""
        assert not is_waiting(known, token, "w-1")
    assert (tmp_path / "data/secret").exists()


def test_what_nobody_took_goes_when_its_registration_has_ended(tmp_path):
    known = settings(tmp_path)
    old, recent = hand_over(known, "w-1"), hand_over(known, "w-2")
    for token, age in ((old, KEPT_S + 60), (recent, KEPT_S - 60)):
        path = tmp_path / "data/prepared" / token
        then = path.stat().st_mtime - age
        os.utime(path, (then, then))

    hand_over(known, "w-3")

    assert take(known, old) == ""
    assert take(known, recent) == "w-2"
