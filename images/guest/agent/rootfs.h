/*
 * The workload's view of the machine: its root, what is mounted there, what is hidden.
 *
 * Runs in the workload's own mount namespace. rootfs_enter makes the image the root first, so that whatever the image
 * holds, no path and no symbolic link in it leads outside.
 */
#ifndef KRUNPY_ROOTFS_H
#define KRUNPY_ROOTFS_H

#include "manifest.h"
#include "settings.h"

int rootfs_enter(struct failure *failure);

/* Mount the system's and the manifest's file systems; add /etc files that the host gives or that are missing; make the working directory. */
int rootfs_fill(const struct manifest *manifest, const struct settings *settings, struct failure *failure);

/* Hide the masked paths, and make what is to be read-only so. After this nothing more is written. */
int rootfs_protect(const struct manifest *manifest, struct failure *failure);

#endif
