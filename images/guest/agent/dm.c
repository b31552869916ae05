#include "dm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include "nodes.h"

#define ROOM 2048u /* bytes of an ioctl's argument */

union request {
	struct dm_ioctl head;
	char bytes[ROOM];
};

int dm_open(struct dm *dm)
{
	if (!make_node("/sys/class/misc/device-mapper/dev", "/dev/dm-control", S_IFCHR)) {
		errno = ENODEV;
		return -1;
	}
	dm->fd = open("/dev/dm-control", O_RDWR | O_CLOEXEC);
	return dm->fd < 0 ? -1 : 0;
}

static void start(union request *request, const char *name, uint32_t flags)
{
	memset(request, 0, sizeof(*request));
	request->head.version[0] = DM_VERSION_MAJOR;
	request->head.data_size = sizeof(*request);
	request->head.data_start = sizeof(request->head);
	request->head.flags = flags;
	(void)snprintf(request->head.name, sizeof(request->head.name), "%s", name);
}

static int load_table(const struct dm *dm, const char *name, const char *target, const char *parameters,
		      uint64_t sectors)
{
	union request request;
	struct dm_target_spec spec = { .length = sectors };
	size_t at = sizeof(request.head) + sizeof(spec), length = strlen(parameters) + 1;
	int result, error;

	if (length > sizeof(request) - at) {
		errno = E2BIG;
		return -1;
	}
	start(&request, name, DM_READONLY_FLAG | DM_SECURE_DATA_FLAG);
	request.head.target_count = 1;
	(void)snprintf(spec.target_type, sizeof(spec.target_type), "%s", target);
	memcpy(request.bytes + sizeof(request.head), &spec, sizeof(spec));
	memcpy(request.bytes + at, parameters, length);
	result = ioctl(dm->fd, DM_TABLE_LOAD, &request);
	error = errno;
	sodium_memzero(&request, sizeof(request));
	errno = error;
	return result;
}

int dm_create(const struct dm *dm, const char *name, const char *target, const char *parameters, uint64_t sectors,
	      dev_t *device)
{
	union request request;

	start(&request, name, 0);
	if (ioctl(dm->fd, DM_DEV_CREATE, &request) < 0)
		return -1;
	/* The kernel's huge_encode_dev, include/linux/kdev_t.h. */
	*device = makedev((unsigned int)((request.head.dev & 0xfff00) >> 8),
			  (unsigned int)((request.head.dev & 0xff) | ((request.head.dev >> 12) & 0xfff00)));
	if (load_table(dm, name, target, parameters, sectors) < 0)
		return -1;
	start(&request, name, 0);
	return ioctl(dm->fd, DM_DEV_SUSPEND, &request) < 0 ? -1 : 0; /* without DM_SUSPEND_FLAG: resume */
}

bool dm_has_target(const struct dm *dm, const char *target)
{
	union request request;

	start(&request, target, 0);
	return ioctl(dm->fd, DM_GET_TARGET_VERSION, &request) == 0;
}

bool dm_status_is(const struct dm *dm, const char *name, const char *text)
{
	union request request;
	size_t at = sizeof(request.head) + sizeof(struct dm_target_spec);

	start(&request, name, DM_NOFLUSH_FLAG);
	if (ioctl(dm->fd, DM_TABLE_STATUS, &request) < 0 || request.head.target_count != 1)
		return false;
	request.bytes[sizeof(request) - 1] = '\0';
	return strncmp(request.bytes + at, text, strlen(text)) == 0;
}
