"""The mode of a server, which it has from its operator and for as long as it runs."""

from __future__ import annotations

from enum import StrEnum


class Mode(StrEnum):
    """Whether simulated evidence can be accepted. There is no third way."""

    PRODUCTION = "production"
    DEVELOPMENT = "development"
