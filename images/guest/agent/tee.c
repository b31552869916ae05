#include "tee.h"

#include <unistd.h>

#include "items.h"
#include "manifest.h"

/* The host plays the hardware. Only a manifest that names "software" lets it. */
static int software_evidence(struct channel *channel, const uint8_t report_data[REPORT_DATA], struct span *evidence,
			     struct failure *failure)
{
	struct frame frame;

	if (channel_send(channel, FRAME_REPORT_REQUEST, report_data, REPORT_DATA, failure) < 0 ||
	    channel_receive(channel, AWAIT_REPORT, &frame, failure) < 0)
		return -1;
	if (!evidence_is_whole(frame.payload))
		return fail(failure, FAIL_TEE, "the report is not a report and a certificate table");
	*evidence = frame.payload;
	return 0;
}

/* Hardware first: the stand-in is the last resort, never a way around a real TEE. */
static const struct tee tees[] = {
	{ "snp", 1, TEE_SNP, "/sys/class/misc/sev-guest", NULL },
	{ "tdx", 2, TEE_TDX, "/sys/class/misc/tdx_guest", NULL },
	{ "software", 0, TEE_SOFTWARE, NULL, software_evidence },
};

const struct tee *tee_choose(uint8_t allowed, struct failure *failure)
{
	for (size_t i = 0; i < COUNT_OF(tees); i++) {
		const struct tee *tee = &tees[i];

		if (tee->device != NULL && access(tee->device, F_OK) != 0)
			continue;
		if ((tee->bit & allowed) == 0)
			(void)fail(failure, FAIL_TEE, "this machine's TEE is \"%s\", which the manifest does not allow",
				   tee->name);
		else if (tee->evidence == NULL)
			(void)fail(failure, FAIL_TEE, "this agent has no driver for the TEE \"%s\" of this machine",
				   tee->name);
		else
			return tee;
		return NULL;
	}
	return NULL;
}
