from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from krunpy.core.errors import BundleError
from krunpy.oci.manifest import OCI, ImageConfig, parse_image, parse_index, parse_manifest

DIGEST = "sha256:" + "5" * 64
LAYER = {"mediaType": OCI + "layer.v1.tar+gzip", "digest": DIGEST, "size": 7}
MANIFEST: dict[str, Any] = {
    "schemaVersion": 2,
    "config": {"mediaType": OCI + "config.v1+json", "digest": DIGEST, "size": 9},
    "layers": [LAYER],
}
IMAGE: dict[str, Any] = {
    "os": "linux",
    "architecture": "amd64",
    "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
}


def encoded(document: object, **changes: object) -> bytes:
    return json.dumps({**document, **changes} if isinstance(document, dict) else document).encode()


def test_a_manifest_is_read() -> None:
    found = parse_manifest(encoded(MANIFEST))

    assert (found.config.digest, found.config.size) == (DIGEST, 9)
    assert [(each.media_type, each.size) for each in found.layers] == [(OCI + "layer.v1.tar+gzip", 7)]


def test_keys_that_the_specification_adds_later_are_ignored() -> None:
    """The package behind this module refuses them and ends the process."""
    more = {"artifactType": "a/b", "subject": {"x": 1}, "futureKey": [], "annotations": {"a": "b"}}

    assert parse_manifest(encoded(MANIFEST, **more, layers=[{**LAYER, "data": "", "urls": ["x"]}])).layers
    assert parse_image(encoded(IMAGE, created="yesterday", history=[{"odd": 1}], variant="v8")).os == "linux"
    assert (
        parse_index(encoded({"manifests": [{**LAYER, "artifactType": "x"}], "subject": None}))[
            0
        ].descriptor.size
        == 7
    )


def test_an_empty_environment_value_is_kept() -> None:
    """The package behind this module would refuse it; images have it."""
    assert parse_image(encoded(IMAGE, config={"Env": ["A=", "B=c", "D"]})).config.env == ("A=", "B=c", "D")


def test_missing_and_null_parts_of_a_configuration_are_empty() -> None:
    nulls = dict.fromkeys(
        ("Entrypoint", "Cmd", "Env", "WorkingDir", "User", "StopSignal", "Labels", "Volumes")
    )

    assert parse_image(encoded(IMAGE, config=nulls)).config == ImageConfig()
    assert parse_image(encoded(IMAGE, config=None)).config == ImageConfig()


def test_a_command_of_an_old_image_may_be_one_string() -> None:
    assert parse_image(encoded(IMAGE, config={"Entrypoint": "/init"})).config.entrypoint == ("/init",)


def test_an_index_tells_names_and_platforms() -> None:
    entry = {
        **LAYER,
        "mediaType": OCI + "manifest.v1+json",
        "platform": {"os": "linux", "architecture": "arm64"},
        "annotations": {"org.opencontainers.image.ref.name": "x:1"},
    }

    (found,) = parse_index(encoded({"schemaVersion": 2, "manifests": [entry]}))

    assert (found.name, found.os, found.architecture) == ("x:1", "linux", "arm64")


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"schemaVersion": 1}, "schemaVersion: seen 1, wanted 2"),
        (
            {"config": {**MANIFEST["config"], "mediaType": "application/vnd.oci.empty.v1+json"}},
            "not a container image",
        ),
        ({"layers": [{**LAYER, "mediaType": "text/plain"}]}, r"layers\[0\].mediaType: seen 'text/plain'"),
        ({"layers": [LAYER] * 1001}, "seen 1001, wanted 1 to 1000"),
        ({"layers": [{**LAYER, "size": 0}]}, r"layers\[0\].size: seen 0"),
        ({"layers": [{**LAYER, "digest": "sha256:5"}]}, r"layers\[0\].digest"),
        ({"layers": [{**LAYER, "digest": DIGEST + "\n"}]}, r"layers\[0\].digest"),
    ],
)
def test_a_bad_manifest_is_refused_by_its_key(changes: dict[str, object], fragment: str) -> None:
    with pytest.raises(BundleError, match=fragment):
        parse_manifest(encoded(MANIFEST, **changes))


@pytest.mark.parametrize(
    "changes", [{"os": ""}, {"architecture": None}, {"rootfs": None}, {"rootfs": {"diff_ids": []}}]
)
def test_what_the_package_refuses_is_our_error_and_prints_nothing(
    changes: dict[str, object], capfd: pytest.CaptureFixture[str]
) -> None:
    try:
        found = parse_image(encoded(IMAGE, **changes))
    except BundleError as error:
        assert "the image specification is not met" in error.why  # noqa: PT017
    else:
        assert found.diff_ids == ()
    assert capfd.readouterr() == ("", "")


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.just(DIGEST)
    | st.just(OCI + "layer.v1.tar"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["digest", "size", "mediaType", "Env", "Cmd", "diff_ids", "x"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@given(values, st.sampled_from(["config", "layers", "rootfs", "os", "manifests", "schemaVersion"]))
@settings(max_examples=300, deadline=None)
def test_any_value_is_accepted_or_a_bundle_error(value: object, key: str) -> None:
    for parse, document in ((parse_manifest, MANIFEST), (parse_image, IMAGE), (parse_index, {})):
        try:
            reason = repr(parse(encoded(document, **{key: value})))
        except BundleError as error:
            reason = error.why

        assert reason
