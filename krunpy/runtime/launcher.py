"""The door to the launcher: what it imports is heavy, and only its own process is to have it."""

from __future__ import annotations


def run_launcher(directory: str) -> int:
    """Bring the container in `directory` to the point where its workload runs; return the exit status."""
    from krunpy.runtime import launch

    return launch.main(directory)
