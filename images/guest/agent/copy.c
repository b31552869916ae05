#include "copy.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define AT_ONCE (1 << 30) /* bytes */

/* The paths grow and shrink with the walk. */
struct copy {
	char from[PATH_MAX], to[PATH_MAX];
	int links; /* a directory: a name for each file that has several, its inode number */
};

/* Everything below returns 0, or -1 with errno. */
static int copy_node(struct copy *copy);

static int enter(char path[PATH_MAX], const char *name)
{
	size_t length = strlen(path);

	if (length + 1 + strlen(name) >= PATH_MAX) {
		errno = ENAMETOOLONG;
		return -1;
	}
	(void)snprintf(path + length, PATH_MAX - length, "/%s", name);
	return 0;
}

/* On failure the paths say where. */
static int copy_entries(struct copy *copy, DIR *directory)
{
	size_t from = strlen(copy->from), to = strlen(copy->to);
	struct dirent *entry;

	while ((errno = 0, entry = readdir(directory)) != NULL) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (enter(copy->from, entry->d_name) < 0 || enter(copy->to, entry->d_name) < 0 || copy_node(copy) < 0)
			return -1;
		copy->from[from] = copy->to[to] = '\0';
	}
	return errno == 0 ? 0 : -1;
}

static int copy_children(struct copy *copy)
{
	DIR *directory = opendir(copy->from);
	int result, error;

	if (directory == NULL)
		return -1;
	result = copy_entries(copy, directory);
	error = errno;
	(void)closedir(directory);
	errno = error;
	return result;
}

/* Only what is no hole takes memory. */
static int copy_bytes(int from, int to, off_t size)
{
	off_t at, end = 0;

	while (end < size) {
		at = lseek(from, end, SEEK_DATA);
		if (at < 0 && errno == ENXIO)
			break;
		if (at < 0 || (end = lseek(from, at, SEEK_HOLE)) < 0 || lseek(to, at, SEEK_SET) < 0)
			return -1;
		while (at < end) {
			ssize_t count = sendfile(to, from, &at, end - at < AT_ONCE ? (size_t)(end - at) : AT_ONCE);

			if (count == 0)
				errno = EIO;
			if (count <= 0)
				return -1;
		}
	}
	return ftruncate(to, size);
}

static int copy_file(const struct copy *copy, off_t size)
{
	int from = open(copy->from, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), to, result;

	if (from < 0)
		return -1;
	to = open(copy->to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	result = to < 0 ? -1 : copy_bytes(from, to, size);
	(void)close(from);
	return to < 0 || close(to) < 0 ? -1 : result;
}

static int copy_link(const struct copy *copy)
{
	static char target[PATH_MAX];
	ssize_t length = readlink(copy->from, target, sizeof(target) - 1);

	if (length < 0)
		return -1;
	target[length] = '\0';
	return symlink(target, copy->to);
}

static int copy_xattrs(const struct copy *copy)
{
	static char names[XATTR_LIST_MAX], value[XATTR_SIZE_MAX];
	ssize_t total = llistxattr(copy->from, names, sizeof(names)), length;

	if (total < 0)
		return errno == ENOTSUP ? 0 : -1;
	for (const char *name = names; name < names + total; name += strlen(name) + 1) {
		length = lgetxattr(copy->from, name, value, sizeof(value));
		if (length < 0 || lsetxattr(copy->to, name, value, (size_t)length, 0) < 0)
			return -1;
	}
	return 0;
}

/* In this order: a new owner takes capabilities and set-id bits away, and everything is a change. */
static int copy_attributes(const struct copy *copy, const struct stat *status)
{
	struct timespec times[2] = { status->st_atim, status->st_mtim };

	if (lchown(copy->to, status->st_uid, status->st_gid) < 0 ||
	    (!S_ISLNK(status->st_mode) && chmod(copy->to, status->st_mode & 07777) < 0) || copy_xattrs(copy) < 0)
		return -1;
	return utimensat(AT_FDCWD, copy->to, times, AT_SYMLINK_NOFOLLOW);
}

static int copy_directory(struct copy *copy, const struct stat *status)
{
	if ((mkdir(copy->to, 0700) < 0 && errno != EEXIST) || copy_children(copy) < 0)
		return -1;
	return copy_attributes(copy, status);
}

static int copy_contents(const struct copy *copy, const struct stat *status)
{
	if (S_ISREG(status->st_mode))
		return copy_file(copy, status->st_size);
	if (S_ISLNK(status->st_mode))
		return copy_link(copy);
	return mknod(copy->to, (status->st_mode & S_IFMT) | 0600, status->st_rdev);
}

static int copy_node(struct copy *copy)
{
	char known[32];
	struct stat status;

	if (lstat(copy->from, &status) < 0)
		return -1;
	if (S_ISDIR(status.st_mode))
		return copy_directory(copy, &status);
	(void)snprintf(known, sizeof(known), "%llu", (unsigned long long)status.st_ino);
	if (status.st_nlink > 1 && linkat(copy->links, known, AT_FDCWD, copy->to, 0) == 0)
		return 0;
	if (copy_contents(copy, &status) < 0 || copy_attributes(copy, &status) < 0)
		return -1;
	return status.st_nlink > 1 ? linkat(AT_FDCWD, copy->to, copy->links, known, 0) : 0;
}

/* The second names go, so that the files have as many as in the image. */
static int remove_links(const char *path)
{
	DIR *directory = opendir(path);
	struct dirent *entry;

	if (directory == NULL)
		return -1;
	while ((entry = readdir(directory)) != NULL)
		if (entry->d_name[0] != '.')
			(void)unlinkat(dirfd(directory), entry->d_name, 0);
	(void)closedir(directory);
	return rmdir(path); /* fails if a name is left */
}

int copy_tree(const char *from, const char *to, const char *links, struct failure *failure)
{
	static struct copy copy;

	(void)snprintf(copy.from, sizeof(copy.from), "%s", from);
	(void)snprintf(copy.to, sizeof(copy.to), "%s", to);
	copy.links = open(links, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (copy.links < 0 || copy_node(&copy) < 0)
		return fail_errno(failure, FAIL_MOUNT, "cannot copy %.400s", copy.from);
	(void)close(copy.links);
	if (remove_links(links) < 0)
		return fail_errno(failure, FAIL_MOUNT, "cannot remove %s", links);
	return 0;
}
