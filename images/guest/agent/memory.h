/*
 * The disk in memory, checked and decrypted there: for kernels that have no dm-verity.
 *
 * Every byte is read from the host once, held against the hash tree, and only then used.
 */
#ifndef KRUNPY_MEMORY_H
#define KRUNPY_MEMORY_H

#include <sys/types.h>

#include "manifest.h"

/*
 * Make a block device of the file system that a disk holds.
 *
 * source: the disk, opened with O_DIRECT. key: 64 bytes, or NULL when it is not encrypted.
 * Returns 0 and the device's number, or -1: FAIL_INTEGRITY for a block that does not fit the root hash.
 */
int memory_load(int source, const struct disk_layout *layout, const uint8_t *key, dev_t *device,
		struct failure *failure);

#endif
