#include "tee.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "items.h"
#include "nodes.h"
#include "tee_sev.h"
#include "tee_tsm.h"

#define SNP_CLASS "/sys/class/misc/sev-guest"

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

/* Check what the kernel gave and lay it out; tell the host what was left out. */
static int finish(struct channel *channel, enum tee_bit bit, struct evidence *made, const uint8_t report_data[REPORT_DATA],
		  struct span *evidence, struct failure *failure)
{
	char note[128];

	if (evidence_finish(made, bit, report_data, evidence, failure) < 0)
		return -1;
	if (made->left_out == NULL)
		return 0;
	(void)snprintf(note, sizeof(note), "the host's certificates are left out of the evidence: %s", made->left_out);
	return channel_send(channel, FRAME_NOTE, note, strlen(note), failure);
}

static struct evidence made; /* by the hardware of this machine */

static int snp_evidence(struct channel *channel, const uint8_t report_data[REPORT_DATA], struct span *evidence,
			struct failure *failure)
{
	int result;

	if (tsm_prepare()) {
		result = tsm_evidence(TSM_REPORTS, TEE_SNP, report_data, &made, failure);
	} else {
		(void)make_node(SNP_CLASS "/dev", SEV_DEVICE, S_IFCHR);
		result = sev_evidence(SEV_DEVICE, report_data, &made, failure);
	}
	return result < 0 ? -1 : finish(channel, TEE_SNP, &made, report_data, evidence, failure);
}

/* /dev/tdx_guest gives a TDREPORT, which only its own machine can verify: a quote comes through configfs-tsm. */
static int tdx_evidence(struct channel *channel, const uint8_t report_data[REPORT_DATA], struct span *evidence,
			struct failure *failure)
{
	if (!tsm_prepare())
		return fail(failure, FAIL_TEE, "this guest kernel gives no TDX quotes: it has no configfs-tsm (Linux 6.7)");
	if (tsm_evidence(TSM_REPORTS, TEE_TDX, report_data, &made, failure) < 0)
		return -1;
	return finish(channel, TEE_TDX, &made, report_data, evidence, failure);
}

/* Hardware first: the stand-in is the last resort, never a way around a real TEE. */
static const struct tee tees[] = {
	{ "snp", 1, TEE_SNP, SNP_CLASS, snp_evidence },
	{ "tdx", 2, TEE_TDX, "/sys/class/misc/tdx_guest", tdx_evidence },
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
		else
			return tee;
		return NULL;
	}
	return NULL;
}
