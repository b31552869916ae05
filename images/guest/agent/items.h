/* Lists of items (RUN, the plaintext of RELEASE) and the layout of evidence. */
#ifndef KRUNPY_ITEMS_H
#define KRUNPY_ITEMS_H

#include <stdbool.h>

#include "bytes.h"

enum run_tag {
	RUN_HOSTNAME = 1, RUN_ENV = 2, RUN_ARG = 3, RUN_STDIN_EMPTY = 4, RUN_HOSTS = 5, RUN_RESOLV_CONF = 6,
	RUN_HOSTNAME_FILE = 7, RUN_VOLUME = 8,
};
enum release_tag { RELEASE_DISK_KEY = 1 };

struct item {
	uint8_t tag;
	struct span bytes;
};

/* Take the next item off `rest`: 1, or 0 at the end, or -1 if the bytes are not a list of items. */
int item_next(struct span *rest, struct item *item);

/* Find the disk key in the plaintext of a release: 64 bytes, or none if not `wanted`. NULL .at: not as wanted. */
struct span release_disk_key(struct span plaintext, bool wanted);

/* Is this u32 length, report, u32 length, certificates, and nothing else? */
bool evidence_is_whole(struct span evidence);

#endif
