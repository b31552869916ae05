/* A file as a block device, read-only. */
#ifndef KRUNPY_LOOPDEV_H
#define KRUNPY_LOOPDEV_H

/*
 * Make a loop device of an open file. Returns its descriptor, or -1 with errno.
 *
 * The device, and with it the file, is given back when nobody has it open or mounted any more.
 */
int loopdev_make(int file);

#endif
