#include "rootfs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "disk.h"
#include "options.h"

struct system_mount {
	const char *type, *path;
	unsigned long flags;
	const char *data;
	bool optional; /* the kernel may lack it */
};

/* In the order of the OCI runtime specification's default file systems. */
static const struct system_mount before_nodes[] = {
	{ "proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, false },
	{ "tmpfs", "/dev", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k", false },
};
static const struct system_mount after_nodes[] = {
	{ "devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5", false },
	{ "tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=65536k", false },
	{ "mqueue", "/dev/mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, true },
	{ "sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, NULL, false },
	{ "cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, NULL, true },
};

static const struct {
	const char *path;
	unsigned int major_number, minor_number;
} devices[] = {
	{ "/dev/null", 1, 3 }, { "/dev/zero", 1, 5 }, { "/dev/full", 1, 7 },
	{ "/dev/random", 1, 8 }, { "/dev/urandom", 1, 9 }, { "/dev/tty", 5, 0 },
};

static const struct {
	const char *path, *target;
} links[] = {
	{ "/dev/ptmx", "pts/ptmx" }, { "/dev/fd", "/proc/self/fd" }, { "/dev/stdin", "/proc/self/fd/0" },
	{ "/dev/stdout", "/proc/self/fd/1" }, { "/dev/stderr", "/proc/self/fd/2" }, { "/dev/core", "/proc/kcore" },
};

/* 0 as well if nothing is mounted there. */
static int detach(const char *path)
{
	return umount2(path, MNT_DETACH) < 0 && errno != EINVAL ? -1 : 0;
}

int rootfs_enter(struct failure *failure)
{
	/* rootfs itself cannot be pivoted: the image's root is moved over it. */
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || detach("/sys") < 0 ||
	    detach("/lower") < 0 || detach("/writable") < 0 ||
	    chdir(ROOT_DIRECTORY) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ||
	    chdir("/") < 0)
		return fail_errno(failure, FAIL_MOUNT, "cannot enter the root of the workload");
	return 0;
}

/* Make a directory and its parents inside the root. 0, or -1 with errno. */
static int make_directory(const char *path)
{
	char part[4096];
	struct stat status;

	if (strlen(path) >= sizeof(part)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	for (size_t i = 1; i <= strlen(path); i++) {
		if (path[i] != '/' && path[i] != '\0')
			continue;
		(void)snprintf(part, sizeof(part), "%.*s", (int)i, path);
		if (mkdir(part, 0755) < 0 && errno != EEXIST && errno != EROFS)
			return -1;
	}
	if (stat(path, &status) < 0)
		return -1;
	errno = ENOTDIR;
	return S_ISDIR(status.st_mode) ? 0 : -1;
}

static int mount_system(const struct system_mount *list, size_t count, struct failure *failure)
{
	for (size_t i = 0; i < count; i++) {
		const struct system_mount *entry = &list[i];

		if (make_directory(entry->path) == 0 &&
		    mount(entry->type, entry->path, entry->type, entry->flags, entry->data) == 0)
			continue;
		if (!entry->optional)
			return fail_errno(failure, FAIL_MOUNT, "cannot mount %s on %s", entry->type, entry->path);
	}
	return 0;
}

static int make_devices(struct failure *failure)
{
	for (size_t i = 0; i < COUNT_OF(devices); i++)
		if (mknod(devices[i].path, S_IFCHR | 0666, makedev(devices[i].major_number,
								  devices[i].minor_number)) < 0)
			return fail_errno(failure, FAIL_MOUNT, "cannot make %s", devices[i].path);
	for (size_t i = 0; i < COUNT_OF(links); i++)
		if (symlink(links[i].target, links[i].path) < 0)
			return fail_errno(failure, FAIL_MOUNT, "cannot make %s", links[i].path);
	return 0;
}

/*
 * Write a file that the image does not have, or has empty (as image builders leave /etc/hosts behind).
 * An image whose links or file types do not allow it keeps what it has.
 */
static void write_missing(const char *path, const char *text)
{
	struct stat status;
	ssize_t written = 0;
	int fd;

	if (stat(path, &status) == 0 && (!S_ISREG(status.st_mode) || status.st_size > 0))
		return;
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0644);
	if (fd < 0)
		return;
	written = write(fd, text, strlen(text));
	(void)written;
	(void)close(fd);
}

/* Put a file of the host in the place of what the image has there; a directory stays. */
static void replace_file(const char *path, const char *text)
{
	if (unlink(path) == 0 || errno == ENOENT)
		write_missing(path, text);
}

static void write_etc(const struct settings *settings)
{
	const char *hostname = settings->hostname;
	char text[512];

	if (make_directory("/etc") < 0)
		return;
	for (size_t i = 0; i < ETC_FILES; i++)
		if (settings->etc[i] != NULL)
			replace_file(etc_paths[i], settings->etc[i]);
	(void)snprintf(text, sizeof(text), "%s\n", hostname);
	write_missing("/etc/hostname", text);
	(void)snprintf(text, sizeof(text),
		       "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t%s\n", hostname);
	write_missing("/etc/hosts", text);
	write_missing("/etc/resolv.conf", "");
	if (symlink("/proc/mounts", "/etc/mtab") < 0)
		errno = 0; /* the image has one */
	(void)utimensat(AT_FDCWD, "/etc", NULL, 0); /* the image has no time for these two: they are new here */
	(void)utimensat(AT_FDCWD, "/run", NULL, 0);
}

static int mount_wanted(const struct tmpfs_mount *wanted, struct failure *failure)
{
	struct tmpfs_options options;
	const char *unknown = options_parse(&options, wanted->options);

	if (unknown != NULL)
		return fail(failure, FAIL_MOUNT, "tmpfs on %s: unknown option \"%s\"", wanted->path, unknown);
	if (make_directory(wanted->path) < 0 ||
	    mount("tmpfs", wanted->path, "tmpfs", options.flags, options.data) < 0)
		return fail_errno(failure, FAIL_MOUNT, "cannot mount tmpfs on %s", wanted->path);
	return 0;
}

int rootfs_fill(const struct manifest *manifest, const struct settings *settings, struct failure *failure)
{
	write_etc(settings); /* before /proc is there: its links are the only ones that could surprise */
	if (mount_system(before_nodes, COUNT_OF(before_nodes), failure) < 0 || make_devices(failure) < 0 ||
	    mount_system(after_nodes, COUNT_OF(after_nodes), failure) < 0)
		return -1;
	for (size_t i = 0; i < manifest->mount_count; i++)
		if (mount_wanted(&manifest->mounts[i], failure) < 0)
			return -1;
	if (volumes_mount(settings->volumes, settings->volume_count, failure) < 0)
		return -1;
	if (make_directory(manifest->process.cwd) < 0)
		return fail_errno(failure, FAIL_MOUNT, "cannot make the working directory %s",
				  manifest->process.cwd);
	return 0;
}

static int make_readonly(const char *path)
{
	struct mount_attr attributes = { .attr_set = MOUNT_ATTR_RDONLY };

	return mount_setattr(AT_FDCWD, path, 0, &attributes, sizeof(attributes));
}

/* Returns -1 with errno; a path that is not there needs no mask. */
static int mask(const char *path)
{
	struct stat status;

	if (stat(path, &status) < 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : -1;
	if (S_ISDIR(status.st_mode))
		return mount("tmpfs", path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "nr_inodes=1");
	return mount("/dev/null", path, NULL, MS_BIND, NULL);
}

static int protect(const char *path)
{
	if (mount(path, path, NULL, MS_BIND | MS_REC, NULL) < 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : -1;
	return make_readonly(path);
}

int rootfs_protect(const struct manifest *manifest, struct failure *failure)
{
	for (size_t i = 0; i < manifest->readonly_paths.count; i++)
		if (protect(manifest->readonly_paths.items[i]) < 0)
			return fail_errno(failure, FAIL_MOUNT, "cannot make %s read-only",
					  manifest->readonly_paths.items[i]);
	for (size_t i = 0; i < manifest->masked_paths.count; i++)
		if (mask(manifest->masked_paths.items[i]) < 0)
			return fail_errno(failure, FAIL_MOUNT, "cannot mask %s", manifest->masked_paths.items[i]);
	if (manifest->readonly_root && make_readonly("/") < 0)
		return fail_errno(failure, FAIL_MOUNT, "cannot make the root read-only");
	return 0;
}
