#include "nodes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

bool read_line(const char *path, char *line, size_t room)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length;

	if (fd < 0)
		return false;
	length = read(fd, line, room - 1);
	(void)close(fd);
	if (length < 0)
		return false;
	line[length] = '\0';
	line[strcspn(line, "\n")] = '\0';
	return true;
}

bool read_device(const char *path, dev_t *device)
{
	char line[32], *colon, *end;
	unsigned long major_number, minor_number;

	if (!read_line(path, line, sizeof(line)) || (colon = strchr(line, ':')) == NULL)
		return false;
	major_number = strtoul(line, &end, 10);
	minor_number = strtoul(colon + 1, NULL, 10);
	*device = makedev((unsigned int)major_number, (unsigned int)minor_number);
	return end == colon;
}

bool make_node(const char *sysfs_path, const char *node, mode_t type)
{
	dev_t device;

	return read_device(sysfs_path, &device) && (mknod(node, type | 0600, device) == 0 || errno == EEXIST);
}

void sleep_ms(int milliseconds)
{
	struct timespec time = { milliseconds / 1000, milliseconds % 1000 * 1000000L };

	(void)nanosleep(&time, NULL);
}

unsigned long long microseconds(void)
{
	struct timespec now = { 0 };

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (unsigned long long)now.tv_sec * 1000000ULL + (unsigned long long)now.tv_nsec / 1000ULL;
}
