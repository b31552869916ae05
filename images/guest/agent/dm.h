/* Device-mapper by ioctl: one target per device, read-only. */
#ifndef KRUNPY_DM_H
#define KRUNPY_DM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct dm {
	int fd; /* -1: not open */
};

/* Open the control device. Returns 0, or -1 with errno. */
int dm_open(struct dm *dm);

/*
 * Make and start a device of `sectors` 512-byte sectors with one target.
 *
 * The parameters may hold a key: the kernel wipes its copies, this function wipes its own.
 * Returns 0 and the device's number, or -1 with errno.
 */
int dm_create(const struct dm *dm, const char *name, const char *target, const char *parameters, uint64_t sectors,
	      dev_t *device);

/* Has the kernel this kind of target? */
bool dm_has_target(const struct dm *dm, const char *target);

/* Does the status line of the device's target start with this text? */
bool dm_status_is(const struct dm *dm, const char *name, const char *text);

#endif
