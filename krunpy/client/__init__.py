"""What talks to an attestation server, and to AMD and Intel for collateral."""
