"""Bytes in, values out: parsers and builders, nothing else. Pure."""
