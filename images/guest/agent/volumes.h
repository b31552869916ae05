/* Directories of the host in the guest (virtiofs): where the manifest lets them be, and how they get there. */
#ifndef KRUNPY_VOLUMES_H
#define KRUNPY_VOLUMES_H

#include "manifest.h"

#define VOLUME_TAG_MAX 36 /* bytes, of virtio's device */
#define VOLUME_PATH_MAX 4095

struct volume {
	char tag[VOLUME_TAG_MAX + 1];
	const char *path;
	bool read_only;
};

/* NULL if the paths can be overrides.volumes (docs/protocol.md 1), else what is wrong with them. */
const char *volume_paths_error(const struct strings *paths);

/* Read TAG:ro:PATH or TAG:rw:PATH, the value of item 8 of RUN. `text` must live on. */
bool volume_read(struct volume *volume, const char *text);

/*
 * Open the directory at `path` below the directory `root`, made where it is missing; no symbolic link is followed.
 * Returns its descriptor (O_PATH), or -1 with errno.
 */
int volume_open_target(int root, const char *path);

/* Mount them below /, without set-user-ID and device files. */
int volumes_mount(const struct volume *volumes, size_t count, struct failure *failure);

#endif
