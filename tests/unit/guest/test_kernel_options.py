import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError, HostError
from krunpy.guest.kernel_options import (
    find_fragments,
    find_unknown,
    format_options,
    load_wanted,
    parse_options,
    require_survived,
)
from tests.unit.guest.kernel_tree import make_fragments, make_tree


def test_an_option_that_is_not_set_is_off_and_comments_are_none():
    text = (
        '# why\nCONFIG_SMP=y\n# CONFIG_MODULES is not set\nCONFIG_NR_CPUS=64\nCONFIG_LSM="landlock,yama"\n\n'
    )

    assert parse_options(text, "x") == {"SMP": "y", "MODULES": "n", "NR_CPUS": "64", "LSM": '"landlock,yama"'}


@pytest.mark.parametrize("line", ["SMP=y", "CONFIG_SMP", "CONFIG_SMP=", "CONFIG_SMP=yes", 'CONFIG_LSM="a" b'])
def test_a_line_that_is_no_option_is_refused_with_its_number(line):
    with pytest.raises(FormatError, match="line 2 is no option"):
        parse_options(f"CONFIG_NET=y\n{line}\n", "x")


def test_an_option_that_is_set_twice_is_refused():
    with pytest.raises(FormatError, match="line 2 sets CONFIG_SMP again"):
        parse_options("CONFIG_SMP=y\n# CONFIG_SMP is not set\n", "x")


def test_an_option_in_two_fragments_is_refused(tmp_path):
    make_fragments(tmp_path / "f", hardening="CONFIG_NET=y\n")

    with pytest.raises(FormatError, match="other fragments set NET too"):
        load_wanted(str(tmp_path / "f"))


names = st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True)
values = st.sampled_from(["y", "m", "n", "0x10", "-3"]) | st.from_regex(r'"[a-z, ()]{0,9}"', fullmatch=True)


@given(st.dictionaries(names, values))
def test_options_are_read_as_they_were_written(options):
    assert parse_options(format_options(options), "x") == options


@given(st.text())
def test_any_text_gives_options_or_a_format_error(text):
    try:
        parse_options(text, "x")
    except FormatError:
        pass


def test_only_an_option_that_may_vary_is_left_out_where_the_source_does_not_know_it(tmp_path):
    wanted = load_wanted(str(make_fragments(tmp_path / "f", versions="CONFIG_NEWER=y\nCONFIG_OLDER=y\n")))
    tree = make_tree(tmp_path / "tree", options=("SMP", "NEWER"))

    assert find_unknown(wanted, str(tree)) == ("OLDER",)


def test_every_lost_option_is_named_with_what_was_seen(tmp_path):
    wanted = load_wanted(str(make_fragments(tmp_path / "f")))

    with pytest.raises(HostError) as caught:
        require_survived(wanted, {"SMP": "m", "MODULES": "y", "NEWER": "y"}, frozenset())

    for words in (
        "CONFIG_SMP (wanted y, seen m)",
        "CONFIG_NET (wanted y, seen n)",
        "CONFIG_MODULES (wanted n, seen y)",
    ):
        assert words in caught.value.why
    assert "NEWER" not in caught.value.why


def test_an_unknown_option_is_not_lost_and_a_known_one_is(tmp_path):
    wanted = load_wanted(str(make_fragments(tmp_path / "f")))
    result = {"SMP": "y", "NET": "y"}

    require_survived(wanted, result, frozenset({"NEWER"}))
    with pytest.raises(HostError, match="CONFIG_NEWER"):
        require_survived(wanted, result, frozenset())


def test_the_fragments_of_the_project_are_whole_and_name_what_a_guest_lives_on():
    wanted = load_wanted(find_fragments()).options

    for name in (
        "VIRTIO_PCI",
        "VIRTIO_MMIO_CMDLINE_DEVICES",
        "VIRTIO_CONSOLE",
        "VIRTIO_VSOCKETS",
        "VIRTIO_BLK",
    ):
        assert wanted[name] == "y"
    for name in (
        "DM_CRYPT",
        "DM_VERITY",
        "EROFS_FS",
        "OVERLAY_FS",
        "SEV_GUEST",
        "TDX_GUEST_DRIVER",
        "TSM_REPORTS",
    ):
        assert wanted[name] == "y"
    for name in ("MODULES", "DEVMEM", "KEXEC", "KEXEC_FILE", "DEBUG_FS", "PROC_KCORE", "HW_RANDOM_VIRTIO"):
        assert wanted[name] == "n"
    assert "m" not in wanted.values()
