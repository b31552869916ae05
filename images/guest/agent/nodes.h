/* Small things about sysfs, device nodes and time. No devtmpfs, no udev: a node is made when it is needed. */
#ifndef KRUNPY_NODES_H
#define KRUNPY_NODES_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/types.h>

/* First line of a small file, without its end. */
bool read_line(const char *path, char *line, size_t room);

/* Read "MAJOR:MINOR" from a sysfs file. */
bool read_device(const char *path, dev_t *device);

/* Make a node for the device that a sysfs file names. */
bool make_node(const char *sysfs_path, const char *node, mode_t type);

void sleep_ms(int milliseconds);

/* Microseconds since boot, CLOCK_MONOTONIC. */
unsigned long long microseconds(void);

#endif
