"""Keys of disks: one secret per installation, one public salt per image, one key from both.

The secret lives in the data directory, never in the cache; nothing here is sent anywhere.
"""

from __future__ import annotations

import os
import secrets
import stat
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from krunpy.core.errors import HostError, UsageError
from krunpy.core.files import load_bounded, lock, make_private_directory, write_atomically
from krunpy.core.octets import Secret

if TYPE_CHECKING:
    from krunpy.image.workload import WorkloadImage

SECRET_SIZE = 32  # bytes
SALT_SIZE = 32  # bytes
DISK_KEY_SIZE = 64  # bytes
SECRET_NAME = "build.secret"  # noqa: S105 - a file's name
_SECRET_LIMIT = 4096  # bytes
_LOST = "restore it from a backup, or remove it: a new one is made, and every source is converted anew"


def load_build_secret(data_directory: str) -> Secret:
    """Return the installation's secret, 32 bytes; it is made on the first call, mode 0600.

    Raises HostError if the file cannot be made or read, belongs to somebody else, can be read by others, or
    does not have 32 bytes.
    """
    make_private_directory(data_directory)
    path = f"{data_directory}/{SECRET_NAME}"
    with lock(f"{path}.lock"):
        if not os.path.lexists(path):
            write_atomically(path, secrets.token_bytes(SECRET_SIZE))
        try:
            status = os.lstat(path)
        except OSError as error:
            raise HostError(f"cannot read {path}", why=error.strerror or "error") from error
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise HostError(
                f"cannot use {path}", why="it is not a file that only this user can read", next=_LOST
            )
        value = load_bounded(path, _SECRET_LIMIT)
    if len(value) != SECRET_SIZE:
        raise HostError(
            f"cannot use {path}", why=f"it has {len(value)} bytes, wanted {SECRET_SIZE}", next=_LOST
        )
    return Secret(value)


def derive_disk_key(secret: Secret, salt: bytes) -> Secret:
    """Return the 64-byte disk key of an image. secret: the build secret. salt: 32 bytes, public."""
    return Secret(_derive(secret, salt, b"krunpy disk key v1", DISK_KEY_SIZE))


def identify_key(key: Secret) -> bytes:
    """Return 16 public bytes that name a disk key or build secret and tell nothing about it."""
    return _derive(key, b"", b"krunpy key id v1", 16)


def load_disk_key(image: WorkloadImage, secret: Secret) -> Secret:
    """Return the disk key of an image. secret: the build secret, or the key that convert was given.

    Raises UsageError if the image is not encrypted, HostError if the secret is not the one it was made with.
    """
    if not image.key_id:
        raise UsageError(f"cannot give the key of image {image.image_id}", why="it is not encrypted")
    key = derive_disk_key(secret, image.key_salt) if image.key_salt else secret
    if identify_key(key) != image.key_id:
        raise HostError(
            f"cannot give the key of image {image.image_id}",
            why="it was made with another build secret or key",
            next=f"remove it with `krunpy image rm {image.image_id}` and convert the source again",
        )
    return key


def _derive(secret: Secret, salt: bytes, info: bytes, size: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=size, salt=salt or None, info=info).derive(secret.reveal())
