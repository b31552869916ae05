#include "volumes.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

/* What the agent mounts by itself. */
static const char *const system_directories[] = { "proc", "sys", "dev" };

static bool is_part(const char *part, size_t length)
{
	return length > 0 && !(length == 1 && part[0] == '.') && !(length == 2 && part[0] == '.' && part[1] == '.');
}

static bool is_volume_path(const char *path)
{
	const char *part = path + 1;
	size_t length;

	if (path[0] != '/' || strlen(path) > VOLUME_PATH_MAX)
		return false;
	length = strcspn(part, "/");
	for (size_t i = 0; i < COUNT_OF(system_directories); i++)
		if (strlen(system_directories[i]) == length && strncmp(part, system_directories[i], length) == 0)
			return false;
	while (is_part(part, length)) {
		if (part[length] == '\0')
			return true;
		part += length + 1;
		length = strcspn(part, "/");
	}
	return false;
}

static bool is_below(const char *path, const char *other)
{
	size_t length = strlen(other);

	return strncmp(path, other, length) == 0 && path[length] == '/';
}

const char *volume_paths_error(const struct strings *paths)
{
	if (paths->count == 0)
		return "overrides.volumes is empty";
	for (size_t i = 0; i < paths->count; i++) {
		if (!is_volume_path(paths->items[i]))
			return "a volume's path is not one";
		if (i > 0 && strcmp(paths->items[i - 1], paths->items[i]) >= 0)
			return "the volumes are not in order";
		for (size_t other = 0; other < i; other++)
			if (is_below(paths->items[i], paths->items[other]))
				return "a volume is below another one";
	}
	return NULL;
}

bool volume_read(struct volume *volume, const char *text)
{
	static const char alphabet[] = "abcdefghijklmnopqrstuvwxyz0123456789";
	size_t length = strspn(text, alphabet);

	if (length == 0 || length > VOLUME_TAG_MAX)
		return false;
	if (strncmp(text + length, ":ro:", 4) != 0 && strncmp(text + length, ":rw:", 4) != 0)
		return false;
	memcpy(volume->tag, text, length);
	volume->tag[length] = '\0';
	volume->read_only = text[length + 2] == 'o';
	volume->path = text + length + 4;
	return is_volume_path(volume->path);
}

/* Open a directory in a directory, made if it is not there. */
static int enter(int parent, const char *name)
{
	static const int flags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
	int fd = openat(parent, name, flags);

	if (fd < 0 && errno == ENOENT && mkdirat(parent, name, 0755) == 0)
		fd = openat(parent, name, flags);
	return fd;
}

int volume_open_target(int root, const char *path)
{
	char name[256]; /* NAME_MAX and a NUL */
	int at = fcntl(root, F_DUPFD_CLOEXEC, 0);

	while (at >= 0 && *path == '/') {
		size_t length = strcspn(++path, "/");
		int next = -1, error = ENAMETOOLONG;

		if (length < sizeof(name)) {
			memcpy(name, path, length);
			name[length] = '\0';
			next = enter(at, name);
			error = errno;
		}
		(void)close(at);
		at = next;
		errno = error;
		path += length;
	}
	return at;
}

/* Returns the descriptor of a mount that is nowhere yet, or -1 with errno. */
static int make_mount(const struct volume *volume)
{
	unsigned int attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | (volume->read_only ? MOUNT_ATTR_RDONLY : 0);
	int file_system = fsopen("virtiofs", FSOPEN_CLOEXEC), made = -1, error;

	if (file_system < 0)
		return -1;
	if (fsconfig(file_system, FSCONFIG_SET_STRING, "source", volume->tag, 0) == 0 &&
	    fsconfig(file_system, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
		made = fsmount(file_system, FSMOUNT_CLOEXEC, attributes);
	error = errno;
	(void)close(file_system);
	errno = error;
	return made;
}

static int mount_volume(int root, const struct volume *volume, struct failure *failure)
{
	int target = volume_open_target(root, volume->path), made, result = 0;

	if (target < 0)
		return fail_errno(failure, FAIL_MOUNT, "cannot make the directory of volume %s", volume->path);
	made = make_mount(volume);
	if (made < 0 || move_mount(made, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
		result = fail_errno(failure, FAIL_MOUNT, "cannot mount volume %s", volume->path);
	if (made >= 0)
		(void)close(made);
	(void)close(target);
	return result;
}

int volumes_mount(const struct volume *volumes, size_t count, struct failure *failure)
{
	int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), result = 0;

	if (root < 0)
		return fail_errno(failure, FAIL_MOUNT, "cannot open the root");
	for (size_t i = 0; i < count && result == 0; i++)
		result = mount_volume(root, &volumes[i], failure);
	(void)close(root);
	return result;
}
