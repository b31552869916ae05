/*
 * The disk of the workload: virtio-blk, dm-verity on it, dm-crypt on that, erofs, and an overlay in memory. Where the
 * kernel has no dm-verity, a copy in memory that was checked and decrypted whole takes the place of the first three;
 * where it has no overlayfs, all files are copied into memory.
 */
#ifndef KRUNPY_DISK_H
#define KRUNPY_DISK_H

#include "dm.h"
#include "manifest.h"

#define ROOT_DIRECTORY "/newroot"

struct disk {
	struct dm dm;
	dev_t verified; /* the dm-verity device */
	bool in_memory;
	int source; /* in_memory: the virtio disk itself */
	bool is_copy; /* the root is a copy in memory: the kernel has no overlayfs */
};

/* Put dm-verity over the disk. Needs no secret, so it can be done while the host asks the server. */
int disk_verify(struct disk *disk, const struct disk_layout *layout, struct failure *failure);

/*
 * Mount the workload's root at ROOT_DIRECTORY, with everything written kept in memory.
 *
 * key: 64 bytes, or NULL when the disk is not encrypted.
 */
int disk_mount(struct disk *disk, const struct disk_layout *layout, const uint8_t *key, struct failure *failure);

/* False as soon as dm-verity has seen a block that is not what the manifest's root hash stands for. */
bool disk_is_intact(const struct disk *disk);

#endif
