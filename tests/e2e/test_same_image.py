"""A directory that podman prepared and the image it came from are one workload image, times of directories included."""

from __future__ import annotations

import os
import re
import tarfile

import pytest

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.slow]
IMAGE = "localhost/e2e-partial:1"


@pytest.fixture
def partial(podman, tmp_path):
    """An image whose one layer names some of its directories, with their times, and leaves others unnamed."""
    tree = tmp_path / "tree"
    for name in ("usr/lib/deep", "etc", "opt/inner"):
        (tree / name).mkdir(parents=True)
        (tree / name / "file").write_text(name)
    for name in ("opt/inner", "opt"):
        os.utime(tree / name, (1_577_836_800, 1_577_836_800))
    with tarfile.open(tmp_path / "layer.tar", "w") as archive:
        archive.add(tree / "usr/lib/deep/file", "usr/lib/deep/file")
        archive.add(tree / "etc/file", "etc/file")
        archive.add(tree / "opt", "opt")
    done = podman("import", tmp_path / "layer.tar", IMAGE)
    assert done.code == 0, done
    return tmp_path


def root_hash(lab, source):
    done = lab.krunpy("image", "convert", "--integrity-only", source)
    assert done.code == 0, done
    return re.search(r"root hash +([0-9a-f]{64})", done.out)[1]


def test_a_prepared_directory_and_both_archives_of_its_image_have_one_root_hash(podman, lab, partial):
    for form in ("oci-archive", "docker-archive"):
        assert podman("save", "-q", "--format", form, "-o", partial / form, IMAGE).code == 0
    container = podman("create", IMAGE, "true").out.strip()
    merged = podman("mount", container).out.strip()
    try:
        seen = {
            root_hash(lab, f"dir:{merged}"),
            *(root_hash(lab, f"{form}:{partial / form}") for form in ("oci-archive", "docker-archive")),
        }
    finally:
        podman("rm", "-f", container)

    assert len(seen) == 1, seen
