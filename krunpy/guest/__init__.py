"""What the guest boots: kernel, initrd, manifest."""
