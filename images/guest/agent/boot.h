/* What the machine booted from: an initrd (QEMU, libkrun for SEV-SNP), or a read-only boot volume (libkrun). */
#ifndef KRUNPY_BOOT_H
#define KRUNPY_BOOT_H

#include <stdbool.h>

#include "fail.h"

/*
 * From a boot volume, go over to a root in memory, as an initrd has one, and take the manifest along.
 *
 * What booted is told by what `/` is: the kernel mounted it by its measured command line. Returns 0 or -1.
 */
int boot_leave_volume(struct failure *failure);

/* The name of the workload's disk: the first one, or the second where the first is the boot volume. */
const char *boot_disk(void);

#endif
