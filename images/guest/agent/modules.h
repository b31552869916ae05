/* Kernel modules of the initrd. */
#ifndef KRUNPY_MODULES_H
#define KRUNPY_MODULES_H

#include "fail.h"

/*
 * Load the modules that /modules/order names, in that order, and remove their files: first those up to and with
 * virtio_console, or up to an empty line, so that the guest can speak; the rest when the host is busy anyway. What a
 * TEE needs belongs to the first part.
 *
 * No list: nothing to load. A module whose hardware is not there, or that is built in, is no failure.
 */
int modules_load_first(struct failure *failure);
int modules_load_rest(struct failure *failure);

#endif
