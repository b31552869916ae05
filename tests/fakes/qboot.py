"""A firmware that looks like libkrun's for SEV-SNP where krunpy looks: one jump to a fixed address."""

SIZE = 0x10000
JUMP_AT = 0x1DE


def make_qboot(entry, *, at=JUMP_AT):
    """Return 64 KiB with `mov $entry, %rax; jmp *%rax` at an offset."""
    code = b"\x48\xc7\xc0" + entry.to_bytes(4, "little") + b"\xff\xe0"
    return (bytes(at) + code).ljust(SIZE, b"\xf4")
