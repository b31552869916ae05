/*
 * The agent's memory.c, xts.c and copy.c as a program, for test_disk_in_memory.py and test_copy.py.
 *
 * load DISK, flips DISK: stdin is a disk key of 64 bytes and a manifest. The host's side is played by what stands in for
 * pread: it gives each block once, and what comes a second time is all ones.
 * xts: stdin is a key of 64 bytes, the number of a sector (8 bytes), its bytes. copy FROM TO LINKS.
 */
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "bytes.h"
#include "copy.h"
#include "loopdev.h"
#include "memory.h"
#include "xts.h"

#define BLOCKS_MAX 4096

static uint8_t input[1 << 20], disk[BLOCKS_MAX * DISK_BLOCK];
static size_t input_length, disk_length;
static bool was_read[BLOCKS_MAX];
static struct manifest manifest;

ssize_t __wrap_pread(int fd, void *to, size_t length, off_t at);
int __wrap_sysinfo(struct sysinfo *info);
bool __real_xts_usable(void);
bool __wrap_xts_usable(void);

ssize_t __wrap_pread(int fd, void *to, size_t length, off_t at)
{
	size_t start = (size_t)at;

	(void)fd;
	if (start >= disk_length)
		return 0;
	if (length > disk_length - start)
		length = disk_length - start;
	memcpy(to, disk + start, length);
	for (size_t i = 0; i < length; i += DISK_BLOCK) {
		if (was_read[(start + i) / DISK_BLOCK])
			memset((uint8_t *)to + i, 0xff, length - i < DISK_BLOCK ? length - i : DISK_BLOCK);
		was_read[(start + i) / DISK_BLOCK] = true;
	}
	return (ssize_t)length;
}

int __wrap_sysinfo(struct sysinfo *info)
{
	const char *mib = getenv("FAKE_FREE_MIB");

	*info = (struct sysinfo){ .freeram = (mib == NULL ? 4096 : strtoul(mib, NULL, 10)) << 20, .mem_unit = 1 };
	return 0;
}

bool __wrap_xts_usable(void)
{
	return getenv("FAKE_NO_AES") == NULL && __real_xts_usable();
}

int loopdev_make(int file)
{
	return dup(file);
}

static int refuse(const struct failure *failure)
{
	printf("%u %s\n", failure->reason, failure->text);
	return 1;
}

static int load(struct failure *failure)
{
	memset(was_read, 0, sizeof(was_read));
	*failure = (struct failure){ 0 };
	return memory_load(-1, &manifest.disk, manifest.disk.encrypted ? input : NULL, failure);
}

static int print_load(void)
{
	static uint8_t bytes[sizeof(disk)];
	struct failure failure;
	int file = load(&failure);
	ssize_t length;

	if (file < 0)
		return refuse(&failure);
	(void)lseek(file, 0, SEEK_SET);
	length = read(file, bytes, sizeof(bytes));
	return fwrite(bytes, 1, (size_t)length, stdout) == (size_t)length ? 0 : 2;
}

/* Print how many blocks there are, and each whose change was not refused as the disk's. */
static int print_flips(void)
{
	size_t blocks = disk_length / DISK_BLOCK, tried = 0;
	struct failure failure;

	for (size_t block = 0; block < blocks; block++) {
		uint8_t *at = disk + block * DISK_BLOCK + block * 37 % DISK_BLOCK, bit = (uint8_t)(1 << block % 8);

		if (block == manifest.disk.data_blocks)
			continue; /* the superblock, which nobody reads */
		*at ^= bit;
		tried++;
		if (load(&failure) >= 0 || failure.reason != FAIL_INTEGRITY)
			printf("accepted %zu\n", block);
		*at ^= bit;
	}
	printf("tried %zu\n", tried);
	return 0;
}

static int print_xts(void)
{
	struct xts xts;
	uint64_t number;

	if (input_length < 72 || !xts_usable())
		return 2;
	memcpy(&number, input + 64, sizeof(number));
	xts_begin(&xts, input);
	xts_decrypt(&xts, number, input + 72, input_length - 72);
	return fwrite(input + 72, 1, input_length - 72, stdout) == input_length - 72 ? 0 : 2;
}

static size_t read_whole(int fd, uint8_t *to, size_t room)
{
	size_t length = 0;
	ssize_t part;

	while ((part = read(fd, to + length, room - length)) > 0)
		length += (size_t)part;
	return length;
}

int main(int count, char **arguments)
{
	struct failure failure = { 0 };

	if (sodium_init() < 0)
		return 2;
	if (count == 5 && strcmp(arguments[1], "copy") == 0)
		return copy_tree(arguments[2], arguments[3], arguments[4], &failure) < 0 ? refuse(&failure) : 0;
	input_length = read_whole(STDIN_FILENO, input, sizeof(input));
	if (count == 2 && strcmp(arguments[1], "xts") == 0)
		return print_xts();
	if (count != 3 || input_length < 64)
		return 2;
	if (manifest_parse(&manifest, input + 64, input_length - 64, &failure) < 0)
		return refuse(&failure);
	disk_length = read_whole(open(arguments[2], O_RDONLY | O_CLOEXEC), disk, sizeof(disk));
	return strcmp(arguments[1], "flips") == 0 ? print_flips() : print_load();
}
