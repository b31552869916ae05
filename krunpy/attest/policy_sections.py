"""From the text of a policy document to the policies of both TEEs.

A document is TOML or JSON. It has one section for each TEE, "snp" and "tdx", or else it is all SNP: that
was the form before there were sections, and stays valid. A TEE that a document does not mention has the
default policy.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, cast

from krunpy.attest.policy_document import parse_policy
from krunpy.attest.tdx_policy_document import parse_tdx_policy
from krunpy.core.errors import FormatError

if TYPE_CHECKING:
    from krunpy.attest.policy import SnpPolicy
    from krunpy.attest.tdx_policy import TdxPolicy

LARGEST_POLICY = 256 * 1024  # bytes, as the body of a registration
_SECTIONS = frozenset({"snp", "tdx"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """What one document demands, by TEE."""

    snp: SnpPolicy
    tdx: TdxPolicy


def parse_policies(value: object, *, source: str, accepts_simulated: bool) -> Policies:
    """Return both policies of a document, so that no part of it goes unread.

    source:            where it came from, for verdicts: "the registration of web".
    accepts_simulated: the server's mode; no document can set it.

    Raises FormatError on a member that is unknown, of another type, or out of range, and on members beside
    sections.
    """
    sections: dict[str, object] = {"snp": value}
    if isinstance(value, dict) and _SECTIONS & value.keys():
        sections = cast("dict[str, object]", value)
        if beside := sections.keys() - _SECTIONS:
            raise _refuse(f'seen "{min(beside)[:40]}" beside sections: put it into "snp" or "tdx"')
    return Policies(
        snp=parse_policy(sections.get("snp", {}), source=source, accepts_simulated=accepts_simulated),
        tdx=parse_tdx_policy(sections.get("tdx", {}), source=source, accepts_simulated=accepts_simulated),
    )


def load_policy_document(text: bytes | str) -> object:
    """Return the value that a policy document holds; for `parse_policies`.

    text: JSON if it begins with "{", else TOML; at most 256 KiB of UTF-8.

    Raises FormatError on a document that is too long, is neither, or names a member twice.
    """
    try:
        data = text.encode() if isinstance(text, str) else text
        if len(data) > LARGEST_POLICY:
            raise _refuse(f"it is {len(data)} bytes long, at most {LARGEST_POLICY} are allowed")
        decoded = data.decode()
        if decoded.lstrip().startswith("{"):
            return cast(
                "object",
                json.loads(decoded, object_pairs_hook=_require_once, parse_constant=_refuse_constant),
            )
        return tomllib.loads(decoded)
    except RecursionError:
        raise _refuse("it is nested too deeply") from None
    except ValueError as error:
        raise _refuse(f"it is neither JSON nor TOML in UTF-8: {str(error)[:80]}") from error


def _require_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _refuse("a member is named twice")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise _refuse(f"seen {name}, which is not JSON")


def _refuse(why: str) -> FormatError:
    return FormatError("cannot read the policy", why=why)
