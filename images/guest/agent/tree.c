#include "tree.h"

#include <sodium.h>
#include <string.h>

#define HASH 32u
#define FANOUT (DISK_BLOCK / HASH)

void tree_plan(struct tree *tree, const struct disk_layout *layout)
{
	uint64_t blocks = layout->data_blocks;

	*tree = (struct tree){ .layout = layout };
	while (blocks > 1 && tree->levels < TREE_LEVELS) {
		blocks = blocks / FANOUT + (blocks % FANOUT != 0);
		tree->blocks[tree->levels++] = blocks;
		tree->total += blocks;
	}
}

static bool is_hash(const struct tree *tree, const uint8_t *block, const uint8_t *wanted)
{
	crypto_hash_sha256_state state;
	uint8_t hash[HASH];

	(void)crypto_hash_sha256_init(&state);
	(void)crypto_hash_sha256_update(&state, tree->layout->salt, sizeof(tree->layout->salt));
	(void)crypto_hash_sha256_update(&state, block, DISK_BLOCK);
	(void)crypto_hash_sha256_final(&state, hash);
	return memcmp(hash, wanted, sizeof(hash)) == 0;
}

/* Where the blocks of a level begin: the higher ones lie before them. */
static const uint8_t *level_at(const struct tree *tree, size_t level)
{
	uint64_t before = 0;

	for (size_t above = level + 1; above < tree->levels; above++)
		before += tree->blocks[above];
	return tree->bytes + before * DISK_BLOCK;
}

/* The hash that a block of a level has to have; level -1 (SIZE_MAX) is the data. */
static const uint8_t *wanted_hash(const struct tree *tree, size_t level, uint64_t number)
{
	if (level + 1 == tree->levels)
		return tree->layout->root_hash;
	return level_at(tree, level + 1) + number * HASH;
}

bool tree_is_intact(const struct tree *tree)
{
	for (size_t level = tree->levels; level-- > 0;)
		for (uint64_t number = 0; number < tree->blocks[level]; number++)
			if (!is_hash(tree, level_at(tree, level) + number * DISK_BLOCK,
				     wanted_hash(tree, level, number)))
				return false;
	return true;
}

bool tree_fits(const struct tree *tree, uint64_t number, const uint8_t *block)
{
	return is_hash(tree, block, wanted_hash(tree, SIZE_MAX, number));
}
