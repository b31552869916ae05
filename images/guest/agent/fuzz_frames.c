/* Any stream of bytes from the host, in any pieces, through the reader and the phases of a session. */
#include <stdlib.h>
#include <string.h>

#include "frame.h"
#include "items.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static enum phase after(enum phase phase, const struct frame *frame)
{
	if (frame->type == FRAME_REFUSED)
		abort(); /* the session is over: handled below */
	if (phase == AWAIT_MANIFEST)
		return AWAIT_CHALLENGE;
	return phase == RUNNING ? RUNNING : (enum phase)(phase << 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct frame_reader reader;
	struct failure failure = { 0 };
	enum phase phase = size > 0 && data[0] == FRAME_MANIFEST ? AWAIT_MANIFEST : AWAIT_CHALLENGE;
	uint32_t step = 1;

	memset(&reader, 0, sizeof(reader));
	while (size > 0) {
		size_t room;
		uint8_t *space = frame_space(&reader, &room);
		struct frame frame;
		int result;

		step = step * 1103515245u + 12345u; /* pieces of changing length, the same in every run */
		if (room == 0 || space + room > reader.bytes + sizeof(reader.bytes))
			abort();
		if (room > step % 5000 + 1)
			room = step % 5000 + 1;
		if (room > size)
			room = size;
		memcpy(space, data, room);
		data += room;
		size -= room;
		result = frame_filled(&reader, room, phase, &frame, &failure);
		if ((result < 0) != (failure.reason != 0))
			abort();
		if (result < 0 || (result == 1 && frame.type == FRAME_REFUSED))
			return 0;
		if (result == 1 && frame.payload.length > (frame.type == FRAME_MANIFEST ? FRAME_MANIFEST_MAX : FRAME_PAYLOAD_MAX))
			abort();
		if (result == 1 && frame.type == FRAME_REPORT)
			(void)evidence_is_whole(frame.payload);
		if (result == 1)
			phase = after(phase, &frame);
	}
	return 0;
}
