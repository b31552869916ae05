"""Skips what this machine cannot run, unless KRUNPY_TESTS_NEED=all (`make test`) makes that a failure."""

import os
import shutil

import hypothesis
import pytest

from krunpy.core.settings import load_settings

# how long a step takes on a busy machine is no property of ours
hypothesis.settings.register_profile(
    "krunpy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("krunpy")


def _find_reason(item: pytest.Item) -> str:
    """Return why a test cannot run here, or an empty string."""
    if item.get_closest_marker("root") and os.geteuid() != 0:
        return "needs root: `sudo make test`"
    if os.environ.get("KRUNPY_TESTS_NEED") == "all" or not item.get_closest_marker("vm"):
        return ""
    if shutil.which("qemu-system-x86_64") is None:
        return "needs qemu-system-x86_64: `make test` installs it"
    guest_dir = load_settings(os.environ).guest_dir
    if not os.path.exists(os.path.join(guest_dir, "current", "guest.json")):
        return f"needs a guest in {guest_dir}: `krunpy guest build`"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that cannot run here, each with its reason."""
    for item in items:
        if reason := _find_reason(item):
            item.add_marker(pytest.mark.skip(reason=reason))
