/* Any bytes as what the host puts beside a report, and as what the firmware answers. */
#include <stdlib.h>
#include <string.h>

#include "items.h"
#include "tee_report.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* As a certificate table: what is kept is a table by itself, and nothing that is kept points outside. */
static void fuzz_table(struct span table)
{
	size_t length = certificates_length(table);

	if (length == CERTIFICATES_BAD)
		return;
	if (length > table.length || certificates_length((struct span){ table.at, length }) != length)
		abort();
}

/* As report and certificates of a session: what goes out fits a frame and is whole. */
static void fuzz_payload(const uint8_t *data, size_t size)
{
	static struct evidence evidence;
	size_t room, report = get_u16(data);
	uint8_t *to = evidence_report(&evidence, &room);
	struct span payload;

	data += 2;
	size -= 2;
	evidence.report = report < size ? report : size;
	memcpy(to, data, evidence.report);
	to = evidence_certificates(&evidence, &room);
	evidence.certificates = size - evidence.report < room ? size - evidence.report : room;
	memcpy(to, data + evidence.report, evidence.certificates);
	if (to + evidence.certificates > evidence.bytes + sizeof(evidence.bytes))
		abort();
	evidence_trim(&evidence);
	payload = evidence_payload(&evidence);
	if (payload.length > FRAME_PAYLOAD_MAX || !evidence_is_whole(payload))
		abort();
	if (evidence.left_out != NULL && evidence.certificates != 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t report_data[REPORT_DATA] = { 1 };
	struct span bytes = { data, size }, report;
	struct failure failure = { 0 };

	if (size < 2)
		return 0;
	fuzz_table(bytes);
	fuzz_payload(data, size);
	if (snp_response_report(bytes, &report, &failure) == 0 &&
	    (report.length != SNP_REPORT || report.at < data || report.at + report.length > data + size))
		abort();
	(void)report_check(TEE_SNP, bytes, report_data, &failure);
	(void)report_check(TEE_TDX, bytes, report_data, &failure);
	for (unsigned int bit = TEE_SOFTWARE; bit <= TEE_TDX; bit <<= 1)
		(void)evidence_names_manifest((enum tee_bit)bit, bytes, report_data, &failure);
	return 0;
}
