/*
 * Evidence from the kernel's configfs-tsm (Linux 6.7 and newer), the same for SNP and TDX.
 * Source: Documentation/ABI/testing/configfs-tsm (configfs-tsm-report from Linux 6.16).
 */
#ifndef KRUNPY_TEE_TSM_H
#define KRUNPY_TEE_TSM_H

#include <stdbool.h>

#include "tee_report.h"

#define TSM_REPORTS "/sys/kernel/config/tsm/report"

/* Mount configfs; true if this kernel gives reports there. */
bool tsm_prepare(void);

/*
 * Ask for a report in a new entry of `reports`, a folder of configfs.
 *
 * The provider must be the one of this TEE. The certificates are as the kernel gives them, none if it gives none.
 * Fails (tee); a report that somebody else's request got in the way of is asked for again, a few times.
 */
int tsm_evidence(const char *reports, enum tee_bit bit, const uint8_t report_data[REPORT_DATA],
		 struct evidence *evidence, struct failure *failure);

#endif
