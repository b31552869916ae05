/*
 * What a TEE answers, as bytes: nothing here asks a device. The report comes from the hardware, the certificates come
 * from the host and may be anything.
 */
#ifndef KRUNPY_TEE_REPORT_H
#define KRUNPY_TEE_REPORT_H

#include "binding.h"
#include "bytes.h"
#include "fail.h"
#include "frame.h"
#include "manifest.h"

#define SNP_REPORT 1184u /* bytes */
#define SNP_RESPONSE 4000u /* of SNP_GET_REPORT */

#define CERTIFICATES_BAD SIZE_MAX

/* The payload of EVIDENCE while it is made: u32 length, report, u32 length, certificates. */
struct evidence {
	size_t report, certificates; /* bytes */
	const char *left_out; /* why the host's certificates are not in it; NULL: they are, or there are none */
	uint8_t bytes[FRAME_PAYLOAD_MAX];
};

/* Where the report goes, and how many bytes of it fit. */
uint8_t *evidence_report(struct evidence *evidence, size_t *room);

/* Where the certificates go; `report` is set, and is not changed after this. */
uint8_t *evidence_certificates(struct evidence *evidence, size_t *room);

/* Write both lengths and return the payload. */
struct span evidence_payload(struct evidence *evidence);

/*
 * Check what a driver put there, trim the certificates of an SNP report, and return the payload. Fails (tee) as
 * report_check does.
 */
int evidence_finish(struct evidence *evidence, enum tee_bit bit, const uint8_t report_data[REPORT_DATA],
		    struct span *payload, struct failure *failure);

/* Is this a report (TEE_SNP) or a quote (TEE_TDX) over these 64 bytes? Fails (tee) if it is not. */
int report_check(enum tee_bit bit, struct span report, const uint8_t report_data[REPORT_DATA], struct failure *failure);

/*
 * Does a whole EVIDENCE payload name this manifest: HOST_DATA of its report, or MRCONFIGID of its quote (the hash, then
 * zeros)? The host sets them once, at launch. Fails (host data) if they name another, (tee) if it is too short.
 */
int evidence_names_manifest(enum tee_bit bit, struct span payload, const uint8_t manifest_hash[32],
			    struct failure *failure);

/* Cut the padding off the certificates of an SNP report, and leave out a table that no verifier would read. */
void evidence_trim(struct evidence *evidence);

/*
 * Bytes of a GHCB certificate table with all that it points to: what follows is padding to whole pages. 0: no
 * certificates. CERTIFICATES_BAD: an entry points outside, or the list does not end.
 */
size_t certificates_length(struct span table);

/* The report in the firmware's answer (MSG_REPORT_RSP) of SNP_RESPONSE bytes. Fails (tee). */
int snp_response_report(struct span response, struct span *report, struct failure *failure);

#endif
