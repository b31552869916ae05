import pytest

from krunpy.core.errors import BundleError
from krunpy.oci.annotations import parse_annotations


def test_foreign_annotations_ask_for_nothing():
    wishes = parse_annotations({"io.container.manager": "libpod", "io.krunpyx": "1"})

    assert (wishes.cpus, wishes.memory_mib, wishes.workload) == (None, None, None)


def test_size_and_name_are_read():
    wishes = parse_annotations(
        {"io.krunpy.cpus": "2", "io.krunpy.memory_mib": "1024", "io.krunpy.workload": "db-1.x"}
    )

    assert (wishes.cpus, wishes.memory_mib, wishes.workload) == (2, 1024, "db-1.x")


def test_a_misspelt_annotation_is_refused_by_name():
    with pytest.raises(BundleError, match=r"io\.krunpy\.cpu"):
        parse_annotations({"io.krunpy.cpu": "2"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("io.krunpy.cpus", "0"),
        ("io.krunpy.cpus", "65"),
        ("io.krunpy.cpus", "-1"),
        ("io.krunpy.cpus", "two"),
        ("io.krunpy.cpus", "\u0663"),
        ("io.krunpy.memory_mib", "127"),
        ("io.krunpy.memory_mib", "9" * 30),
        ("io.krunpy.workload", ""),
        ("io.krunpy.workload", "A"),
        ("io.krunpy.workload", "-a"),
        ("io.krunpy.workload", "a" * 64),
        ("io.krunpy.workload", "a/b"),
    ],
)
def test_a_value_out_of_range_is_refused(name, value):
    with pytest.raises(BundleError, match="wanted"):
        parse_annotations({name: value})
