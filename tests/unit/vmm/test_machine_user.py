import os

import pytest

from krunpy.core.errors import HostError
from krunpy.vmm.device import find_group, is_open_to_machines
from krunpy.vmm.machine_user import FIRST_ID, choose_id

WHOLE = "         0          0 4294967295\n"


def test_every_process_has_an_id_of_its_own():
    assert choose_id(WHOLE, 17) == FIRST_ID + 17


def test_in_a_user_namespace_it_is_the_last_id_there():
    assert choose_id("0 1001 1\n1 100000 65536\n", 17) == 65536


@pytest.mark.parametrize("text", ["0 1001 1\n", "", "nonsense\n"])
def test_where_there_is_only_root_the_machine_is_not_started(text):
    with pytest.raises((HostError, ValueError)):
        choose_id(text, 17)


@pytest.mark.parametrize(("mode", "is_open"), [(0o600, False), (0o640, False), (0o666, True)])
def test_a_device_that_only_root_may_open_is_no_machines(tmp_path, mode, is_open):
    device = tmp_path / "kvm"
    device.touch()
    device.chmod(mode)

    assert is_open_to_machines(str(device)) is is_open
    assert not is_open_to_machines(str(tmp_path / "missing"))


def test_a_device_of_a_group_is_opened_by_that_group(tmp_path, monkeypatch):
    device = tmp_path / "kvm"
    device.touch()
    device.chmod(0o660)
    status = list(os.stat(device))
    for group, wanted in ((4711, 4711), (0, None)):
        status[5] = group
        monkeypatch.setattr(os, "stat", lambda _, known=tuple(status): os.stat_result(known))
        if wanted is None:
            with pytest.raises(HostError, match="only root may open it"):
                find_group(str(device))
        else:
            assert find_group(str(device)) == wanted
