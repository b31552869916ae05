/* A hash tree of any size: whole it is accepted, with one wrong bit anywhere it is refused. */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "tree.h"

#define BLOCKS_MAX 40000u
#define LARGEST 400u /* blocks of the tree */

static uint8_t bytes[LARGEST * DISK_BLOCK];

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void hash_block(const struct disk_layout *layout, const uint8_t *block, uint8_t *to)
{
	crypto_hash_sha256_state state;

	(void)crypto_hash_sha256_init(&state);
	(void)crypto_hash_sha256_update(&state, layout->salt, sizeof(layout->salt));
	(void)crypto_hash_sha256_update(&state, block, DISK_BLOCK);
	(void)crypto_hash_sha256_final(&state, to);
}

/* From the level of the data's hashes, which lies last, up to the root. */
static void grow(struct disk_layout *layout, const struct tree *tree)
{
	uint64_t start = tree->total;

	for (size_t level = 0; level < tree->levels; level++) {
		bool is_top = level + 1 == tree->levels;
		uint64_t above = is_top ? 0 : start - tree->blocks[level] - tree->blocks[level + 1];

		start -= tree->blocks[level];
		for (uint64_t i = 0; i < tree->blocks[level]; i++)
			hash_block(layout, bytes + (start + i) * DISK_BLOCK,
				   is_top ? layout->root_hash : bytes + above * DISK_BLOCK + i * 32);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t block[DISK_BLOCK];
	struct disk_layout layout = { 0 };
	struct tree tree;
	uint64_t number;
	size_t at;

	if (size < 16)
		return 0;
	layout.data_blocks = 1 + get_u32(data) % BLOCKS_MAX;
	number = get_u32(data + 4) % layout.data_blocks;
	memcpy(layout.salt, data, size < 32 ? size : 32);
	memset(bytes, data[8], sizeof(bytes));
	memcpy(block, data, size < DISK_BLOCK ? size : DISK_BLOCK);
	tree_plan(&tree, &layout);
	tree.bytes = bytes;
	if (tree.total > LARGEST)
		abort();
	if (tree.levels == 0)
		hash_block(&layout, block, layout.root_hash);
	else
		hash_block(&layout, block, bytes + (tree.total - tree.blocks[0]) * DISK_BLOCK + number * 32);
	grow(&layout, &tree);
	if (!tree_is_intact(&tree) || !tree_fits(&tree, number, block))
		abort();
	block[get_u32(data + 12) % DISK_BLOCK] ^= 1;
	if (tree_fits(&tree, number, block))
		abort();
	if (tree.levels == 0)
		return 0;
	at = get_u32(data + 8) % (tree.total * DISK_BLOCK);
	bytes[at] ^= (uint8_t)(1 << data[12] % 8);
	if (tree_is_intact(&tree))
		abort();
	return 0;
}
