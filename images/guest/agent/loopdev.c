#include "loopdev.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "nodes.h"

#define NODE "/dev/loop-memory"

int loopdev_make(int file)
{
	struct loop_config config = { .fd = (unsigned int)file,
				      .block_size = 4096,
				      .info = { .lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR } };
	char path[64];
	dev_t device;
	int control, number, loop;

	if (!make_node("/sys/class/misc/loop-control/dev", "/dev/loop-control", S_IFCHR))
		return -1;
	control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	if (control < 0)
		return -1;
	number = ioctl(control, LOOP_CTL_GET_FREE);
	(void)close(control);
	(void)snprintf(path, sizeof(path), "/sys/block/loop%d/dev", number);
	if (number < 0 || !read_device(path, &device) || mknod(NODE, S_IFBLK | 0600, device) < 0)
		return -1;
	loop = open(NODE, O_RDONLY | O_CLOEXEC);
	return loop < 0 || ioctl(loop, LOOP_CONFIGURE, &config) < 0 ? -1 : loop;
}
