/* Why the machine ends: a reason of docs/protocol.md 3 and one line of text without secrets. */
#ifndef KRUNPY_FAIL_H
#define KRUNPY_FAIL_H

#include <stddef.h>
#include <stdint.h>

#define TEXT_MAX 512 /* bytes of text in FAIL, NOTE and REFUSED */

enum reason {
	FAIL_INTERNAL = 1,
	FAIL_MANIFEST = 2,
	FAIL_CHANNEL = 3,
	FAIL_TEE = 4,
	FAIL_SIGNATURE = 5,
	FAIL_SEAL = 6,
	FAIL_REFUSED = 7,
	FAIL_INTEGRITY = 8,
	FAIL_DISK_KEY = 9,
	FAIL_MOUNT = 10,
	FAIL_PROCESS = 11,
	FAIL_SETTINGS = 12,
	FAIL_HOST_DATA = 13,
};

struct failure {
	uint16_t reason; /* 0: nothing failed */
	char text[TEXT_MAX + 1];
};

/* Note the failure, unless an earlier one is noted already. Returns -1, to be returned. */
int fail(struct failure *failure, enum reason reason, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* The same, with ": " and the text of errno at the end. */
int fail_errno(struct failure *failure, enum reason reason, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Length in bytes of the well-formed UTF-8 character at `at`, or 0. `left` bytes may be read. */
size_t utf8_length(const uint8_t *at, size_t left);

/*
 * Copy bytes from outside as one printable line, NUL-terminated: control characters and bytes that are not
 * UTF-8 become '?'. At most room - 1 bytes; a character is never cut.
 */
void text_clean(char *to, size_t room, const uint8_t *from, size_t length);

#endif
