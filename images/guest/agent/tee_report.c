#include "tee_report.h"

#include <string.h>

#define SNP_REPORT_DATA 0x50u /* AMD 56860, ATTESTATION_REPORT */
#define SNP_HOST_DATA 0xC0u /* the same, 32 bytes */
#define QUOTE_HEADER 48u /* Intel TDX DCAP quoting library API, A.3 */
#define QUOTE_BODY_HEADER 6u /* version 5: type and size of the body */
#define QUOTE_REPORT_DATA 0x208u /* in the body */
#define QUOTE_MRCONFIGID 0xB8u /* in the body, 48 bytes */
#define CERTIFICATE_ENTRY 24u /* AMD 56421, 4.1.8.1: GUID, u32 offset, u32 length */
#define CERTIFICATE_ENTRIES 32u
#define RESPONSE_HEADER 32u /* AMD 56860, MSG_REPORT_RSP: u32 status, u32 size, 24 reserved */

uint8_t *evidence_report(struct evidence *evidence, size_t *room)
{
	evidence->report = evidence->certificates = 0;
	evidence->left_out = NULL;
	*room = sizeof(evidence->bytes) - 8;
	return evidence->bytes + 4;
}

uint8_t *evidence_certificates(struct evidence *evidence, size_t *room)
{
	evidence->certificates = 0;
	*room = sizeof(evidence->bytes) - 8 - evidence->report;
	return evidence->bytes + 8 + evidence->report;
}

struct span evidence_payload(struct evidence *evidence)
{
	put_u32(evidence->bytes, (uint32_t)evidence->report);
	put_u32(evidence->bytes + 4 + evidence->report, (uint32_t)evidence->certificates);
	return (struct span){ evidence->bytes, 8 + evidence->report + evidence->certificates };
}

/* Where the body of a quote begins; 0 if it is not one of version 4 or 5. */
static size_t quote_body(struct span quote)
{
	uint16_t version = quote.length < 2 ? 0 : get_u16(quote.at);

	if (version == 4)
		return QUOTE_HEADER;
	return version == 5 ? QUOTE_HEADER + QUOTE_BODY_HEADER : 0;
}

/* Where a field of a report or of a quote's body begins; 0 on failure (tee): it has no such field. */
static size_t find_field(enum tee_bit bit, struct span report, size_t snp, size_t tdx, size_t length,
			 struct failure *failure)
{
	size_t at = snp;

	if (bit == TEE_TDX) {
		at = quote_body(report);
		if (at == 0) {
			(void)fail(failure, FAIL_TEE, "the quote is not of version 4 or 5");
			return 0;
		}
		at += tdx;
	}
	if (report.length < at + length) {
		(void)fail(failure, FAIL_TEE, "the %s ends after %zu bytes", bit == TEE_TDX ? "quote" : "report",
			   report.length);
		return 0;
	}
	return at;
}

int report_check(enum tee_bit bit, struct span report, const uint8_t report_data[REPORT_DATA], struct failure *failure)
{
	size_t at;

	if (bit == TEE_SNP && report.length != SNP_REPORT)
		return fail(failure, FAIL_TEE, "the report has %zu bytes, wanted %u", report.length, SNP_REPORT);
	at = find_field(bit, report, SNP_REPORT_DATA, QUOTE_REPORT_DATA, REPORT_DATA, failure);
	if (at == 0)
		return -1;
	if (memcmp(report.at + at, report_data, REPORT_DATA) != 0)
		return fail(failure, FAIL_TEE, "the report is over other report_data than ours");
	return 0;
}

int evidence_names_manifest(enum tee_bit bit, struct span payload, const uint8_t manifest_hash[32],
			    struct failure *failure)
{
	uint8_t wanted[48] = { 0 };
	size_t at, length = bit == TEE_TDX ? 48 : 32;
	struct span report;

	if (payload.length < 4 || get_u32(payload.at) > payload.length - 4)
		return fail(failure, FAIL_TEE, "the evidence has no whole report");
	report = (struct span){ payload.at + 4, get_u32(payload.at) };
	at = find_field(bit, report, SNP_HOST_DATA, QUOTE_MRCONFIGID, length, failure);
	if (at == 0)
		return -1;
	memcpy(wanted, manifest_hash, 32);
	if (memcmp(report.at + at, wanted, length) != 0)
		return fail(failure, FAIL_HOST_DATA, "the manifest that the host sent is not the one that %s names",
			    bit == TEE_TDX ? "MRCONFIGID" : "HOST_DATA");
	return 0;
}

/* The entry that ends the table has no GUID. */
static bool is_last(const uint8_t *entry)
{
	static const uint8_t zero[CERTIFICATE_ENTRY];

	return memcmp(entry, zero, 16) == 0;
}

size_t certificates_length(struct span table)
{
	size_t count = 0, end;

	if (table.length == 0)
		return 0;
	for (;; count++) {
		if (count > CERTIFICATE_ENTRIES || table.length - count * CERTIFICATE_ENTRY < CERTIFICATE_ENTRY)
			return CERTIFICATES_BAD;
		if (is_last(table.at + count * CERTIFICATE_ENTRY))
			break;
	}
	end = (count + 1) * CERTIFICATE_ENTRY;
	for (size_t i = 0; i < count; i++) {
		const uint8_t *entry = table.at + i * CERTIFICATE_ENTRY;
		uint64_t offset = get_u32(entry + 16), stop = offset + get_u32(entry + 20);

		if (offset < (count + 1) * CERTIFICATE_ENTRY || stop > table.length)
			return CERTIFICATES_BAD;
		if (stop > end)
			end = (size_t)stop;
	}
	return count == 0 ? 0 : end;
}

void evidence_trim(struct evidence *evidence)
{
	struct span table = { evidence->bytes + 8 + evidence->report, evidence->certificates };

	evidence->certificates = certificates_length(table);
	if (evidence->certificates == CERTIFICATES_BAD) {
		evidence->certificates = 0;
		evidence->left_out = "they are not a certificate table";
	}
}

int evidence_finish(struct evidence *evidence, enum tee_bit bit, const uint8_t report_data[REPORT_DATA],
		    struct span *payload, struct failure *failure)
{
	struct span report = { evidence->bytes + 4, evidence->report };

	if (report_check(bit, report, report_data, failure) < 0)
		return -1;
	if (bit == TEE_SNP)
		evidence_trim(evidence);
	*payload = evidence_payload(evidence);
	return 0;
}

int snp_response_report(struct span response, struct span *report, struct failure *failure)
{
	uint32_t status, size;

	if (response.length < RESPONSE_HEADER + SNP_REPORT)
		return fail(failure, FAIL_TEE, "the firmware's answer has %zu bytes", response.length);
	status = get_u32(response.at);
	size = get_u32(response.at + 4);
	if (status != 0)
		return fail(failure, FAIL_TEE, "the firmware refused a report: status 0x%x", status);
	if (size != SNP_REPORT)
		return fail(failure, FAIL_TEE, "the firmware gave a report of %u bytes, wanted %u", size, SNP_REPORT);
	*report = (struct span){ response.at + RESPONSE_HEADER, SNP_REPORT };
	return 0;
}
