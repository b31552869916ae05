#include "tee_report.h"

#include <string.h>

#define SNP_REPORT_DATA 0x50u /* AMD 56860, ATTESTATION_REPORT */
#define QUOTE_HEADER 48u /* Intel TDX DCAP quoting library API, A.3 */
#define QUOTE_BODY_HEADER 6u /* version 5: type and size of the body */
#define QUOTE_REPORT_DATA 0x208u /* in the body */
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

static size_t quote_report_data(struct span quote)
{
	uint16_t version = quote.length < 2 ? 0 : get_u16(quote.at);

	if (version == 4)
		return QUOTE_HEADER + QUOTE_REPORT_DATA;
	return version == 5 ? QUOTE_HEADER + QUOTE_BODY_HEADER + QUOTE_REPORT_DATA : 0;
}

int report_check(enum tee_bit bit, struct span report, const uint8_t report_data[REPORT_DATA], struct failure *failure)
{
	size_t at = SNP_REPORT_DATA;

	if (bit == TEE_SNP && report.length != SNP_REPORT)
		return fail(failure, FAIL_TEE, "the report has %zu bytes, wanted %u", report.length, SNP_REPORT);
	if (bit == TEE_TDX) {
		at = quote_report_data(report);
		if (at == 0)
			return fail(failure, FAIL_TEE, "the quote is not of version 4 or 5");
	}
	if (report.length < at + REPORT_DATA)
		return fail(failure, FAIL_TEE, "the quote ends after %zu bytes", report.length);
	if (memcmp(report.at + at, report_data, REPORT_DATA) != 0)
		return fail(failure, FAIL_TEE, "the report is over other report_data than ours");
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
