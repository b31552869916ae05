"""krunpy: an OCI runtime for confidential workloads."""

__version__ = "0.1.0"
