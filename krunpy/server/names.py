"""The names of the files in a server's data directory that others open too. Apart, because it imports nothing."""

from __future__ import annotations

SIGNING_KEY_FILE = "signing.key"
ADMIN_TOKEN_FILE = "admin.token"  # noqa: S105 - the name of a file
