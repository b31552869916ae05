"""The names of the files in a server's data directory that others open too. Apart, because it imports nothing."""

from __future__ import annotations

# a server signs with the key of its mode; runtime's embedded servers are in mode development
SIGNING_KEY_FILE = "signing.key"  # mode development: all that it signs may be about simulated evidence
PRODUCTION_KEY_FILE = "signing-production.key"
ADMIN_TOKEN_FILE = "admin.token"  # noqa: S105 - the name of a file
