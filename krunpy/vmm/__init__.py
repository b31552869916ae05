"""Virtual machines: QEMU."""
