#include "modules.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/module.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MODULE_INIT_COMPRESSED_FILE
#define MODULE_INIT_COMPRESSED_FILE 4
#endif

static char order[16384];
static char *rest; /* of order, not loaded yet; NULL: nothing */

static bool ends_in(const char *name, const char *end)
{
	size_t length = strlen(name), end_length = strlen(end);

	return length > end_length && strcmp(name + length - end_length, end) == 0;
}

static int load(const char *name, struct failure *failure)
{
	char path[160];
	int fd, flags = ends_in(name, ".xz") ? MODULE_INIT_COMPRESSED_FILE : 0, result;

	if (strchr(name, '/') != NULL || strlen(name) > 128)
		return fail(failure, FAIL_INTERNAL, "/modules/order holds a name that is no file name");
	(void)snprintf(path, sizeof(path), "/modules/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return fail_errno(failure, FAIL_INTERNAL, "cannot open module %s", name);
	result = (int)syscall(SYS_finit_module, fd, "", flags);
	if (result < 0 && errno != EEXIST && errno != ENODEV)
		(void)fail_errno(failure, FAIL_INTERNAL, "cannot load module %s", name);
	else
		result = 0;
	(void)close(fd);
	(void)unlink(path);
	return result;
}

int modules_load_first(struct failure *failure)
{
	int fd = open("/modules/order", O_RDONLY | O_CLOEXEC);
	ssize_t length;
	char *name;

	if (fd < 0)
		return errno == ENOENT ? 0 : fail_errno(failure, FAIL_INTERNAL, "cannot open /modules/order");
	length = read(fd, order, sizeof(order));
	(void)close(fd);
	if (length < 0 || (size_t)length == sizeof(order))
		return fail(failure, FAIL_INTERNAL, "/modules/order cannot be read or is too long");
	order[length] = '\0';
	rest = order;
	while ((name = strsep(&rest, "\n")) != NULL && name[0] != '\0') {
		if (load(name, failure) < 0)
			return -1;
		if (strncmp(name, "virtio_console.", 15) == 0)
			break;
	}
	return 0;
}

int modules_load_rest(struct failure *failure)
{
	char *name;

	while ((name = strsep(&rest, "\n")) != NULL)
		if (name[0] != '\0' && load(name, failure) < 0)
			return -1;
	return 0;
}
