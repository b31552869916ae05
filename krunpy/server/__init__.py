"""The attestation server."""
