/* Mount options of a tmpfs, as /etc/fstab and OCI bundles write them. */
#ifndef KRUNPY_OPTIONS_H
#define KRUNPY_OPTIONS_H

#define OPTIONS_MAX 512

struct tmpfs_options {
	unsigned long flags; /* MS_* */
	char data[OPTIONS_MAX]; /* what tmpfs itself understands */
};

/* Returns NULL, or the first option that is not known (static memory). */
const char *options_parse(struct tmpfs_options *options, const char *text);

#endif
