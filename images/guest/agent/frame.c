#include "frame.h"

struct rule {
	uint8_t type;
	uint8_t phases;
	uint32_t least; /* bytes of payload */
	uint32_t most;
};

/* REFUSED may come in the place of every answer before RELEASE: the relay has no server to ask, for instance. */
static const struct rule rules[] = {
	{ FRAME_MANIFEST, AWAIT_MANIFEST, 1, FRAME_MANIFEST_MAX },
	{ FRAME_CHALLENGE, AWAIT_CHALLENGE, 32, 32 },
	{ FRAME_REPORT, AWAIT_REPORT, 8, FRAME_PAYLOAD_MAX },
	{ FRAME_RELEASE, AWAIT_RELEASE, 64 + 32 + 16, FRAME_PAYLOAD_MAX },
	{ FRAME_REFUSED, AWAIT_MANIFEST | AWAIT_CHALLENGE | AWAIT_REPORT | AWAIT_RELEASE, 0, TEXT_MAX },
	{ FRAME_RUN, AWAIT_RUN, 0, FRAME_PAYLOAD_MAX },
	{ FRAME_STDIN, RUNNING, 1, FRAME_PAYLOAD_MAX },
	{ FRAME_STDIN_EOF, RUNNING, 0, 0 },
	{ FRAME_SIGNAL, RUNNING, 1, 1 },
};

static int check_header(const uint8_t *header, enum phase phase, struct failure *failure)
{
	uint32_t length = get_u32(header + 4);

	for (size_t i = 0; i < COUNT_OF(rules); i++) {
		if (rules[i].type != header[0])
			continue;
		if (header[1] != 0 || get_u16(header + 2) != 0)
			return fail(failure, FAIL_CHANNEL, "frame 0x%02x: stream or reserved field is not 0", header[0]);
		if ((rules[i].phases & phase) == 0)
			return fail(failure, FAIL_CHANNEL, "frame 0x%02x is out of order", header[0]);
		if (length < rules[i].least || length > rules[i].most)
			return fail(failure, FAIL_CHANNEL, "frame 0x%02x is %u bytes long, wanted %u to %u", header[0],
				    length, rules[i].least, rules[i].most);
		return 0;
	}
	return fail(failure, FAIL_CHANNEL, "unknown frame 0x%02x", header[0]);
}

static size_t wanted(const struct frame_reader *reader)
{
	return reader->filled < FRAME_HEADER ? FRAME_HEADER : FRAME_HEADER + get_u32(reader->bytes + 4);
}

uint8_t *frame_space(struct frame_reader *reader, size_t *room)
{
	if (reader->complete) {
		reader->complete = false;
		reader->filled = 0;
	}
	*room = wanted(reader) - reader->filled;
	return reader->bytes + reader->filled;
}

int frame_filled(struct frame_reader *reader, size_t count, enum phase phase, struct frame *frame,
		 struct failure *failure)
{
	if (count > wanted(reader) - reader->filled)
		return fail(failure, FAIL_INTERNAL, "more bytes than there is room for");
	reader->filled += count;
	if (reader->filled < FRAME_HEADER)
		return 0;
	if (reader->filled == FRAME_HEADER && check_header(reader->bytes, phase, failure) < 0)
		return -1;
	if (reader->filled < wanted(reader))
		return 0;
	frame->type = (enum frame_type)reader->bytes[0];
	frame->payload = (struct span){ reader->bytes + FRAME_HEADER, reader->filled - FRAME_HEADER };
	reader->complete = true;
	return 1;
}

void frame_header(uint8_t *to, enum frame_type type, uint8_t stream, size_t length)
{
	to[0] = (uint8_t)type;
	to[1] = stream;
	put_u16(to + 2, 0);
	put_u32(to + 4, (uint32_t)length);
}
