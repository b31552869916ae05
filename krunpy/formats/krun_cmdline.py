"""The command line that libkrun's kernels for a TEE have built in: what the host says there they do not hear.

It lies in the image as text, and is measured with it. One parameter is taken out of it: `tsi_hijack`, which makes each
TCP and UDP socket of the guest one of the host's. Without the host's answer such a socket waits for ever.

Source: libkrunfw config-libkrunfw-sev_x86_64, CONFIG_CMDLINE; its patches 0011 and 0012; Linux arch/x86/kernel/setup.c.
"""

from __future__ import annotations

import re

_HIJACK = re.compile(rb"(?<=[!-~] )tsi_hijack(?= [!-~])")


def drop_hijack(image: bytes) -> bytes:
    """Return a kernel image whose sockets are the guest's own, of the same size; unchanged if it says nothing of it."""
    return _HIJACK.sub(lambda found: b" " * len(found[0]), image)
