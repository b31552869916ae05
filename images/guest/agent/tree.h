/* A dm-verity hash tree that is checked from its top: SHA-256, salt before the data, blocks of 4096. */
#ifndef KRUNPY_TREE_H
#define KRUNPY_TREE_H

#include <stdbool.h>

#include "manifest.h"

#define TREE_LEVELS 10u /* 128^9 blocks are more than 2^62 bytes */

struct tree {
	const struct disk_layout *layout;
	size_t levels;
	uint64_t blocks[TREE_LEVELS]; /* of each level, that of the data's hashes first */
	uint64_t total; /* of all levels; on the disk the top comes first */
	uint8_t *bytes; /* of all levels, as on the disk */
};

/* Lay out the tree of a disk; `bytes` are to be read then: layout->hash_start_block, tree->total blocks. */
void tree_plan(struct tree *tree, const struct disk_layout *layout);

/* Does every block of the tree fit the one above it, and the top the root hash? */
bool tree_is_intact(const struct tree *tree);

/* Does a block of data fit the tree? number: counted from the start of the disk. */
bool tree_fits(const struct tree *tree, uint64_t number, const uint8_t *block);

#endif
