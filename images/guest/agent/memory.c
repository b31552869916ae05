#include "memory.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "loopdev.h"
#include "tree.h"
#include "xts.h"

#define STEP 256u /* blocks that are read at once */
#define SECTOR 512u
#define FOLDER "/memory"
#define FILE_NAME FOLDER "/disk"
#define SPARE (32ULL << 20) /* bytes that the workload needs at the least, and the kernel for its own */

struct load {
	int source, target;
	const struct disk_layout *layout;
	struct tree tree;
	struct xts xts;
};

static int require_memory(const struct load *load, struct failure *failure)
{
	unsigned long long wanted = load->layout->payload_size + load->tree.total * DISK_BLOCK + SPARE, seen;
	struct sysinfo info;

	if (sysinfo(&info) < 0)
		return fail_errno(failure, FAIL_MOUNT, "cannot tell how much memory there is");
	seen = ((unsigned long long)info.freeram + info.bufferram) * info.mem_unit;
	if (seen < wanted)
		return fail(failure, FAIL_MOUNT,
			    "the kernel has no dm-verity, so the disk is checked in memory: wanted %llu MiB, free are %llu",
			    (wanted >> 20) + 1, seen >> 20);
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
	uint8_t *bytes;

	if (load->tree.total == 0)
		return 0;
	bytes = get_pages(load->tree.total * DISK_BLOCK);
	if (bytes == NULL)
		return fail_errno(failure, FAIL_MOUNT, "no memory for the hash tree");
	if (read_blocks(load->source, load->layout->hash_start_block, load->tree.total, bytes, failure) < 0)
		return -1;
	load->tree.bytes = bytes;
	if (!tree_is_intact(&load->tree))
		return fail(failure, FAIL_INTEGRITY, "the disk was changed: its hash tree does not fit the root hash");
	return 0;
}

/* Decrypt and keep what of these bytes belongs to the file system. at: in bytes from the start of the disk. */
static int keep(const struct load *load, uint64_t at, uint8_t *bytes, size_t length, const uint8_t *key,
		struct failure *failure)
{
	const struct disk_layout *layout = load->layout;
	uint64_t end = layout->payload_offset + layout->payload_size;

	for (size_t done = 0; done < length; done += DISK_BLOCK, at += DISK_BLOCK) {
		uint64_t offset = at - layout->payload_offset;

		if (at < layout->payload_offset || at >= end)
			continue;
		if (key != NULL)
			xts_decrypt(&load->xts, offset / SECTOR, bytes + done, DISK_BLOCK);
		if (pwrite(load->target, bytes + done, DISK_BLOCK, (off_t)offset) != (ssize_t)DISK_BLOCK)
			return fail_errno(failure, FAIL_MOUNT, "no memory for the disk");
	}
	return 0;
}

static int copy_data(const struct load *load, const uint8_t *key, struct failure *failure)
{
	uint8_t *bytes = get_pages(STEP * DISK_BLOCK);
	uint64_t count;

	if (bytes == NULL)
		return fail_errno(failure, FAIL_MOUNT, "no memory to read the disk");
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
	(void)munmap(bytes, STEP * DISK_BLOCK);
	return 0;
}

static int open_target(const struct disk_layout *layout, struct failure *failure)
{
	char options[64];
	int target;

	(void)snprintf(options, sizeof(options), "mode=0700,size=%llu",
		       (unsigned long long)layout->payload_size + DISK_BLOCK);
	if (mkdir(FOLDER, 0700) < 0 || mount("tmpfs", FOLDER, "tmpfs", MS_NODEV | MS_NOSUID | MS_NOEXEC, options) < 0)
		return fail_errno(failure, FAIL_MOUNT, "cannot make room for the disk in memory");
	target = open(FILE_NAME, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (target < 0 || ftruncate(target, (off_t)layout->payload_size) < 0)
		return fail_errno(failure, FAIL_MOUNT, "cannot make room for the disk in memory");
	return target;
}

int memory_load(int source, const struct disk_layout *layout, const uint8_t *key, dev_t *device,
		struct failure *failure)
{
	static struct load load;
	int result = -1;

	load = (struct load){ .source = source, .target = -1, .layout = layout };
	if (key != NULL && !xts_usable())
		return fail(failure, FAIL_DISK_KEY, "the kernel has no dm-verity and the processor no AES instructions");
	tree_plan(&load.tree, layout);
	if (require_memory(&load, failure) < 0 || load_tree(&load, failure) < 0)
		return -1;
	if (key != NULL)
		xts_begin(&load.xts, key);
	load.target = open_target(layout, failure);
	if (load.target >= 0)
		result = copy_data(&load, key, failure);
	sodium_memzero(&load.xts, sizeof(load.xts));
	if (load.tree.total != 0)
		(void)munmap(load.tree.bytes, load.tree.total * DISK_BLOCK);
	if (result == 0 && loopdev_make(load.target, device) < 0)
		result = fail_errno(failure, FAIL_MOUNT, "cannot make a loop device");
	return result;
}
