"""What talks to an attestation server."""
