/* A file as a block device, read-only. */
#ifndef KRUNPY_LOOPDEV_H
#define KRUNPY_LOOPDEV_H

#include <sys/types.h>

/* Make a loop device of an open file. Returns 0 and its number, or -1 with errno. It lives as long as it is mounted. */
int loopdev_make(int file, dev_t *device);

#endif
