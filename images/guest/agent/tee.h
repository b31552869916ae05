/* The trusted execution environments that this agent knows, and how evidence is had from each. */
#ifndef KRUNPY_TEE_H
#define KRUNPY_TEE_H

#include "binding.h"
#include "channel.h"
#include "manifest.h"

struct tee {
	const char *name;
	uint8_t number; /* in HELLO */
	enum tee_bit bit; /* of the manifest */
	const char *device; /* sysfs path that exists only on this hardware; NULL: no hardware */
	/*
	 * Ask for evidence over report_data. The result is laid out as the payload of EVIDENCE, and is valid until
	 * the next frame is received.
	 */
	int (*evidence)(struct channel *channel, const uint8_t report_data[REPORT_DATA], struct span *evidence,
			struct failure *failure);
};

/*
 * The TEE of this machine: real hardware if there is any, else the software stand-in.
 *
 * Fails (tee) if the manifest does not allow it.
 */
const struct tee *tee_choose(uint8_t allowed, struct failure *failure);

#endif
