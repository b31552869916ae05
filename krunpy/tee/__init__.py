"""Trusted execution environments: which one is here, and the software stand-in."""
