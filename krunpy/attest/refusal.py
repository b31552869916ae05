"""Why evidence was refused: the stage it reached, and a short code that stays the same between versions."""

from __future__ import annotations

from enum import StrEnum

from krunpy.core.errors import EvidenceError


class Stage(StrEnum):
    """How far verification came; each stage builds on those before it."""

    PARSE = "parse"
    CHAIN = "chain"
    VALIDITY = "validity"
    REVOCATION = "revocation"
    BINDING = "binding"
    SIGNATURE = "signature"
    COLLATERAL = "collateral"
    TCB = "tcb"
    POLICY = "policy"


class Refusal(EvidenceError):  # noqa: N818 - the glossary's word
    """Evidence that does not hold. `code` is for programs: lower case, words joined by "-"."""

    def __init__(self, stage: Stage, code: str, *, why: str, next: str = "") -> None:
        super().__init__("evidence is refused", why=why, next=next)
        self.stage = stage
        self.code = code
