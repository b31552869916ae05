/*
 * A tree of files, copied: owners, modes, times, extended attributes, links, devices, holes.
 *
 * Nobody else may be in either tree: paths are looked up again and again.
 */
#ifndef KRUNPY_COPY_H
#define KRUNPY_COPY_H

#include "fail.h"

/*
 * Copy a directory's attributes and contents into another one, which is there and empty.
 *
 * links: an empty directory in the same file system as `to`; it is removed at the end. Returns 0 or -1: FAIL_MOUNT.
 */
int copy_tree(const char *from, const char *to, const char *links, struct failure *failure);

#endif
