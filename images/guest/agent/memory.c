#include "memory.h"

#include <errno.h>
#include <sodium.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "loopdev.h"
#include "tree.h"
#include "xts.h"

#define STEP 256u /* blocks that are read at once */
#define SECTOR 512u
#define SPARE (32ULL << 20) /* bytes that the workload needs at the least, and the kernel for its own */

struct load {
	int source, target;
	const struct disk_layout *layout;
	struct tree tree;
	struct xts xts;
};

int memory_require(unsigned long long bytes, const char *why, struct failure *failure)
{
	unsigned long long seen;
	struct sysinfo info;

	if (sysinfo(&info) < 0)
		return fail_errno(failure, FAIL_MOUNT, "cannot tell how much memory there is");
	seen = ((unsigned long long)info.freeram + info.bufferram) * info.mem_unit;
	if (seen < bytes + SPARE)
		return fail(failure, FAIL_MOUNT, "%s: wanted %llu MiB, free are %llu", why, ((bytes + SPARE) >> 20) + 1,
			    seen >> 20);
	return 0;
}

/* Read whole blocks; what the host does not give is a disk that is not the registered one. */
static int read_blocks(int source, uint64_t first, uint64_t count, uint8_t *to, struct failure *failure)
{
	uint64_t at = first * DISK_BLOCK, end = (first + count) * DISK_BLOCK;

	while (at < end) {
		size_t step = end - at < STEP * DISK_BLOCK ? (size_t)(end - at) : STEP * DISK_BLOCK;
		ssize_t length = pread(source, to, step, (off_t)at);

		if (length < 0 && errno == EINTR)
			continue;
		if (length <= 0 || length % DISK_BLOCK != 0)
			return fail(failure, FAIL_INTEGRITY, "the disk is shorter than the manifest says");
		at += (uint64_t)length;
		to += length;
	}
	return 0;
}

/* Anonymous pages: aligned as O_DIRECT wants them. NULL if there are none. */
static uint8_t *get_pages(uint64_t size)
{
	void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return pages == MAP_FAILED ? NULL : pages;
}

static int load_tree(struct load *load, struct failure *failure)
{
	if (load->tree.total == 0)
		return 0;
	load->tree.bytes = get_pages(load->tree.total * DISK_BLOCK);
	if (load->tree.bytes == NULL)
		return fail_errno(failure, FAIL_MOUNT, "no memory for the hash tree");
	if (read_blocks(load->source, load->layout->hash_start_block, load->tree.total, load->tree.bytes, failure) < 0)
		return -1;
	if (!tree_is_intact(&load->tree))
		return fail(failure, FAIL_INTEGRITY, "the disk was changed: its hash tree does not fit the root hash");
	return 0;
}

/* Decrypt and keep what of these bytes belongs to the file system. at: in bytes from the start of the disk. */
static int keep(const struct load *load, uint64_t at, uint8_t *bytes, size_t length, const uint8_t *key,
		struct failure *failure)
{
	const struct disk_layout *layout = load->layout;
	uint64_t first = layout->payload_offset, end = first + layout->payload_size;

	if (at < first && first - at < length) {
		bytes += first - at;
		length -= first - at;
		at = first;
	}
	if (at < first || at >= end)
		return 0;
	if (length > end - at)
		length = end - at;
	for (size_t done = 0; key != NULL && done < length; done += DISK_BLOCK)
		xts_decrypt(&load->xts, (at - first + done) / SECTOR, bytes + done, DISK_BLOCK);
	if (pwrite(load->target, bytes, length, (off_t)(at - first)) != (ssize_t)length)
		return fail_errno(failure, FAIL_MOUNT, "no memory for the disk");
	return 0;
}

/* bytes: room for STEP blocks. */
static int copy_data(const struct load *load, const uint8_t *key, uint8_t *bytes, struct failure *failure)
{
	uint64_t count;

	for (uint64_t first = 0; first < load->layout->data_blocks; first += count) {
		count = load->layout->data_blocks - first < STEP ? load->layout->data_blocks - first : STEP;
		if (read_blocks(load->source, first, count, bytes, failure) < 0)
			return -1;
		for (uint64_t i = 0; i < count; i++)
			if (!tree_fits(&load->tree, first + i, bytes + i * DISK_BLOCK))
				return fail(failure, FAIL_INTEGRITY,
					    "the disk was changed: a block does not fit the root hash");
		if (keep(load, first * DISK_BLOCK, bytes, count * DISK_BLOCK, key, failure) < 0)
			return -1;
	}
	return 0;
}

/* Returns the descriptor of the file in memory. */
static int copy_disk(struct load *load, const uint8_t *key, struct failure *failure)
{
	uint8_t *bytes = get_pages(STEP * DISK_BLOCK);
	int result;

	load->target = memfd_create("disk", MFD_CLOEXEC);
	if (bytes == NULL || load->target < 0 || ftruncate(load->target, (off_t)load->layout->payload_size) < 0)
		return fail_errno(failure, FAIL_MOUNT, "no memory for the disk");
	if (key != NULL)
		xts_begin(&load->xts, key);
	result = copy_data(load, key, bytes, failure);
	sodium_memzero(&load->xts, sizeof(load->xts));
	sodium_memzero(bytes, STEP * DISK_BLOCK);
	(void)munmap(bytes, STEP * DISK_BLOCK);
	if (result == 0)
		return load->target;
	(void)close(load->target);
	return -1;
}

/* The tree is needed until the last block was looked at. */
static int copy_checked(struct load *load, const uint8_t *key, struct failure *failure)
{
	int file = load_tree(load, failure) < 0 ? -1 : copy_disk(load, key, failure);

	if (load->tree.bytes != NULL)
		(void)munmap(load->tree.bytes, load->tree.total * DISK_BLOCK);
	return file;
}

int memory_load(int source, const struct disk_layout *layout, const uint8_t *key, struct failure *failure)
{
	static struct load load;
	int file, device;

	load = (struct load){ .source = source, .target = -1, .layout = layout };
	if (key != NULL && !xts_usable())
		return fail(failure, FAIL_DISK_KEY, "the kernel has no dm-verity and the processor no AES instructions");
	tree_plan(&load.tree, layout);
	if (memory_require(layout->payload_size + load.tree.total * DISK_BLOCK,
			   "the kernel has no dm-verity, so the disk is checked in memory", failure) < 0)
		return -1;
	file = copy_checked(&load, key, failure);
	if (file < 0)
		return -1;
	device = loopdev_make(file);
	if (device < 0)
		return fail_errno(failure, FAIL_MOUNT, "cannot make a loop device");
	(void)close(file);
	return device;
}
