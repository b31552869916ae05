#include "boot.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "manifest.h"

#ifndef EROFS_SUPER_MAGIC_V1
#define EROFS_SUPER_MAGIC_V1 0xE0F5E1E2
#endif
#define MEMORY "/run" /* a directory of the volume */
#define MANIFEST "/manifest.json"

static bool from_volume;

/* 0, or -1 with errno; without a manifest there is nothing to copy. */
static int copy_manifest(void)
{
	static char bytes[MANIFEST_MAX + 1];
	int from = open(MANIFEST, O_RDONLY | O_CLOEXEC), to;
	ssize_t length, written;

	if (from < 0)
		return errno == ENOENT ? 0 : -1;
	length = read(from, bytes, sizeof(bytes));
	(void)close(from);
	to = open(MEMORY MANIFEST, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0400);
	if (length < 0 || to < 0)
		return -1;
	written = write(to, bytes, (size_t)length);
	(void)close(to);
	return written == length ? 0 : -1;
}

int boot_leave_volume(struct failure *failure)
{
	struct statfs root;

	if (statfs("/", &root) < 0)
		return fail_errno(failure, FAIL_INTERNAL, "cannot tell what the machine booted from");
	if ((unsigned long)root.f_type != EROFS_SUPER_MAGIC_V1)
		return 0;
	from_volume = true;
	if (mount("tmpfs", MEMORY, "tmpfs", 0, "mode=0755") < 0 || copy_manifest() < 0 || chdir(MEMORY) < 0 ||
	    mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
		return fail_errno(failure, FAIL_INTERNAL, "cannot leave the boot volume");
	return 0;
}

const char *boot_disk(void)
{
	return from_volume ? "vdb" : "vda";
}
