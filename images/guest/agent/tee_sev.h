/*
 * Evidence from the SNP guest device, for kernels without configfs-tsm (Linux 5.19 to 6.6).
 * Source: Documentation/virt/coco/sev-guest.rst, <linux/sev-guest.h>.
 */
#ifndef KRUNPY_TEE_SEV_H
#define KRUNPY_TEE_SEV_H

#include "tee_report.h"

#define SEV_DEVICE "/dev/sev-guest"

/*
 * Ask the firmware for a report, with the host's certificates if it gives them in a size that fits.
 *
 * Fails (tee) with what the firmware or the host answered; a host that is busy is asked again for 15 seconds.
 */
int sev_evidence(const char *device, const uint8_t report_data[REPORT_DATA], struct evidence *evidence,
		 struct failure *failure);

#endif
