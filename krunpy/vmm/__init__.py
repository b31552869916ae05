"""Virtual machines: QEMU and libkrun."""
