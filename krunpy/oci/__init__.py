"""OCI bundles, images and container state."""
