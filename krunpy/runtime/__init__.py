"""The OCI lifecycle and the shim."""
