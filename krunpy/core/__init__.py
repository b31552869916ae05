"""Errors, fixed-length octets, the door for processes, atomic files. Standard library only."""
