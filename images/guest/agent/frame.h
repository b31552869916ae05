/*
 * Frames of docs/protocol.md 3: the one parser that every byte from the host goes through.
 *
 * It knows what the host may send and when, so that a frame out of order is refused by its header alone.
 */
#ifndef KRUNPY_FRAME_H
#define KRUNPY_FRAME_H

#include <stdbool.h>

#include "bytes.h"
#include "fail.h"

#define FRAME_HEADER 8u
#define FRAME_PAYLOAD_MAX 65536u
#define FRAME_MANIFEST_MAX (256u * 1024u) /* of MANIFEST alone: what a manifest may have */

enum frame_type {
	FRAME_HELLO = 0x01,
	FRAME_REPORT_REQUEST = 0x02,
	FRAME_EVIDENCE = 0x03,
	FRAME_STARTED = 0x04,
	FRAME_OUTPUT = 0x05,
	FRAME_STDIN_ACK = 0x06,
	FRAME_EXIT = 0x07,
	FRAME_FAIL = 0x08,
	FRAME_NOTE = 0x09,
	FRAME_CHALLENGE = 0x81,
	FRAME_REPORT = 0x82,
	FRAME_RELEASE = 0x83,
	FRAME_REFUSED = 0x84,
	FRAME_RUN = 0x85,
	FRAME_STDIN = 0x86,
	FRAME_STDIN_EOF = 0x87,
	FRAME_SIGNAL = 0x88,
	FRAME_MANIFEST = 0x89,
};

/* What the guest waits for; one bit each. */
enum phase {
	AWAIT_CHALLENGE = 1,
	AWAIT_REPORT = 2,
	AWAIT_RELEASE = 4,
	AWAIT_RUN = 8,
	RUNNING = 16,
	AWAIT_MANIFEST = 32, /* first of all, and only if the initrd holds none */
};

struct frame {
	enum frame_type type;
	struct span payload; /* valid until the next frame_space */
};

struct frame_reader {
	size_t filled;
	bool complete;
	uint8_t bytes[FRAME_HEADER + FRAME_MANIFEST_MAX];
};

/* Where the next bytes of the stream go, and how many at most (never more than the current frame needs). */
uint8_t *frame_space(struct frame_reader *reader, size_t *room);

/*
 * Tell the reader that `count` bytes were put at frame_space.
 *
 * Returns 1 with a complete frame that is allowed in `phase`, 0 if more bytes are needed, -1 on a frame
 * that breaks a rule (failure: channel); the reader must not be used after that.
 */
int frame_filled(struct frame_reader *reader, size_t count, enum phase phase, struct frame *frame,
		 struct failure *failure);

/* Write the header of a guest frame: 8 bytes. */
void frame_header(uint8_t *to, enum frame_type type, uint8_t stream, size_t length);

#endif
