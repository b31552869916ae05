#include "items.h"

int item_next(struct span *rest, struct item *item)
{
	uint16_t length;

	if (rest->length == 0)
		return 0;
	if (rest->length < 4 || rest->at[1] != 0)
		return -1;
	length = get_u16(rest->at + 2);
	if (length > rest->length - 4)
		return -1;
	item->tag = rest->at[0];
	item->bytes = (struct span){ rest->at + 4, length };
	rest->at += 4 + (size_t)length;
	rest->length -= 4 + (size_t)length;
	return 1;
}

struct span release_disk_key(struct span plaintext, bool wanted)
{
	struct span key = { wanted ? NULL : plaintext.at, 0 }, refused = { NULL, 0 };
	struct item item;
	int more;

	while ((more = item_next(&plaintext, &item)) == 1) {
		if (item.tag != RELEASE_DISK_KEY || item.bytes.length != 64 || !wanted || key.at != NULL)
			return refused;
		key = item.bytes;
	}
	return more < 0 ? refused : key;
}

bool evidence_is_whole(struct span evidence)
{
	uint32_t report, certificates;

	if (evidence.length < 8)
		return false;
	report = get_u32(evidence.at);
	if (report > evidence.length - 8)
		return false;
	certificates = get_u32(evidence.at + 4 + report);
	return certificates == evidence.length - 8 - report;
}
