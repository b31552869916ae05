/*
 * The channel to the host: a byte stream of frames over the virtio-serial port "krunpy.ctl", or a vsock port.
 *
 * Until the workload runs, sending and receiving block. After channel_unblock nothing does: the caller polls `fd`.
 */
#ifndef KRUNPY_CHANNEL_H
#define KRUNPY_CHANNEL_H

#include "frame.h"

/* The longest frame, an acknowledgement, and the last frame of all. */
#define OUTBOX_ROOM (FRAME_HEADER + FRAME_PAYLOAD_MAX + 2048u)
#define OUTBOX_RESERVE 1024u /* bytes that only channel_finish may use */

struct channel {
	int fd; /* -1: not open */
	struct frame_reader reader;
	size_t sent, queued; /* outbox: bytes [sent, queued) are still to be written */
	uint8_t outbox[OUTBOX_ROOM];
};

/* Open the port or connect the socket, whichever the machine has; waits at most 10 seconds for it to appear. */
int channel_open(struct channel *channel, struct failure *failure);

int channel_send(struct channel *channel, enum frame_type type, const void *payload, size_t length,
		 struct failure *failure);

/* Receive the next frame that is allowed in this phase. A REFUSED frame is a failure (refused) with its text. */
int channel_receive(struct channel *channel, enum phase phase, struct frame *frame, struct failure *failure);

int channel_unblock(struct channel *channel, struct failure *failure);

/* Where the payload of the next queued frame goes; NULL if there is no room for `length` bytes now. */
uint8_t *channel_payload(struct channel *channel, size_t length);

/* Queue a frame whose payload is at channel_payload. */
void channel_queue(struct channel *channel, enum frame_type type, uint8_t stream, size_t length);

/* Write what the port takes now. */
int channel_flush(struct channel *channel, struct failure *failure);

/* Read what is there, and at most to the end of one frame: 1 with a frame, 0 if none is complete yet, -1. */
int channel_poll(struct channel *channel, enum phase phase, struct frame *frame, struct failure *failure);

/*
 * Send the rest of the outbox and a last frame, then wait until the host hangs up; gives up when nothing moved for `seconds`.
 *
 * The port says only when it took a frame, not when the host has it: power off too early would lose the end.
 */
void channel_finish(struct channel *channel, enum frame_type type, const void *payload, size_t length, int seconds);

#endif
