"""Byte strings whose length is part of their type, and secrets that do not print."""

from __future__ import annotations

import hmac
from typing import ClassVar, NoReturn, Self


class Octets(bytes):
    """Exactly `size` bytes. Construction checks the length; repr is hex.

    Raises ValueError on any other length: nothing is padded or cut.
    """

    size: ClassVar[int] = 0
    __slots__ = ()

    def __new__(cls, value: bytes) -> Self:
        if len(value) != cls.size:
            msg = f"{cls.__name__} is {cls.size} bytes, seen {len(value)}"
            raise ValueError(msg)
        return super().__new__(cls, value)

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """Return the octets that `text`, 2 * size lower-case hex digits, stands for."""
        value = bytes.fromhex(text)
        if value.hex() != text:
            msg = f"{cls.__name__} in hex is lower case without blanks"
            raise ValueError(msg)
        return cls(value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.hex()})"

    __str__ = __repr__


class Digest32(Octets):
    """A SHA-256 digest, 32 bytes."""

    size = 32


class Digest48(Octets):
    """A SHA-384 digest, 48 bytes."""

    size = 48


class LaunchDigest(Digest48):
    """MEASUREMENT of an SEV-SNP report, 48 bytes."""


class ReportData(Octets):
    """REPORT_DATA: 64 bytes chosen by the guest, signed by the hardware."""

    size = 64


class HostData(Octets):
    """HOST_DATA: 32 bytes chosen by the host at launch (SNP)."""

    size = 32


class Nonce(Octets):
    """A challenge, 32 bytes, used once."""

    size = 32


class PublicKey32(Octets):
    """An X25519 or Ed25519 public key, 32 bytes."""

    size = 32


class Secret:
    """Bytes that never print and compare in constant time; `reveal` is the one way out."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = bytes(value)

    def reveal(self) -> bytes:
        """Return the bytes. The caller keeps them out of argv, environment, messages and logs."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __repr__(self) -> str:
        return f"Secret({len(self._value)} bytes)"

    def __str__(self) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> NoReturn:
        msg = "a Secret is not pickled"
        raise TypeError(msg)
