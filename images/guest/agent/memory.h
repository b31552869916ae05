/*
 * The disk in memory, checked and decrypted there: for kernels that have no dm-verity.
 *
 * Every byte is read from the host once, held against the hash tree, and only then used.
 */
#ifndef KRUNPY_MEMORY_H
#define KRUNPY_MEMORY_H

#include "manifest.h"

/* Are so many bytes free, and some for the kernel and the workload? why: what they are wanted for. Returns 0 or -1. */
int memory_require(unsigned long long bytes, const char *why, struct failure *failure);

/*
 * Make a block device of the file system that a disk holds.
 *
 * source: the disk, opened with O_DIRECT. key: 64 bytes, or NULL when it is not encrypted.
 * Returns the device's descriptor, whose memory is free when nobody has it open or mounted any more; or -1:
 * FAIL_INTEGRITY for a block that does not fit the root hash.
 */
int memory_load(int source, const struct disk_layout *layout, const uint8_t *key, struct failure *failure);

#endif
