#include "tee_sev.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sev-guest.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "nodes.h"

#define MESSAGE_VERSION 1
#define PAGE 4096u
#define BUSY_MS 15000
#define FIRST_PAUSE_MS 100
#define LAST_PAUSE_MS 2000
#define SIZE_ATTEMPTS 3 /* the host may change its certificates while it is asked */

struct request {
	int fd;
	uint64_t exit_info; /* of the last call: error of the VMM << 32 | error of the firmware */
	struct snp_report_resp response;
};

static uint32_t vmm_error(const struct request *request)
{
	return (uint32_t)(request->exit_info >> 32);
}

/* After a time-out the kernel has given up its key for messages to the firmware. */
static bool is_worth_another(const struct request *request, int error)
{
	return error == EINTR || error == EAGAIN || error == EBUSY ||
	       (vmm_error(request) == SNP_GUEST_VMM_ERR_BUSY && error != ETIMEDOUT);
}

/* One call, again while the host says that it is busy. -1 with errno. */
static int call(struct request *request, unsigned long number, void *data)
{
	unsigned long long deadline = microseconds() + BUSY_MS * 1000ULL;

	for (int pause = FIRST_PAUSE_MS;; pause *= 2) {
		struct snp_guest_request_ioctl call = {
			.msg_version = MESSAGE_VERSION,
			.req_data = (uint64_t)(uintptr_t)data,
			.resp_data = (uint64_t)(uintptr_t)&request->response,
		};
		int result, error;

		memset(&request->response, 0, sizeof(request->response));
		result = ioctl(request->fd, number, &call);
		error = errno;
		request->exit_info = call.exitinfo2;
		if (result == 0)
			return 0;
		if (!is_worth_another(request, error) || microseconds() >= deadline) {
			errno = error;
			return -1;
		}
		if (pause > LAST_PAUSE_MS)
			pause = LAST_PAUSE_MS;
		sleep_ms(pause);
	}
}

static int refuse(const struct request *request, struct failure *failure)
{
	if (vmm_error(request) == SNP_GUEST_VMM_ERR_BUSY)
		return fail(failure, FAIL_TEE, "the host throttles requests for reports, and gave none in time");
	return fail_errno(failure, FAIL_TEE, "no report: firmware error 0x%x, error 0x%x of the host",
			  (unsigned int)(request->exit_info & UINT32_MAX), vmm_error(request));
}

static struct snp_report_req report_request(const uint8_t report_data[REPORT_DATA])
{
	struct snp_report_req request = { .vmpl = 0 };

	memcpy(request.user_data, report_data, REPORT_DATA);
	return request;
}

static int ask_alone(struct request *request, const uint8_t report_data[REPORT_DATA])
{
	struct snp_report_req data = report_request(report_data);

	return call(request, SNP_GET_REPORT, &data);
}

/* Put the certificates behind where the report will be. 1: this host or kernel gives none in a size that fits. */
static int ask_with_certificates(struct request *request, const uint8_t report_data[REPORT_DATA],
				 struct evidence *evidence)
{
	struct snp_ext_report_req data = { .data = report_request(report_data) };
	size_t room;
	uint8_t *to;

	(void)evidence_report(evidence, &room);
	evidence->report = SNP_REPORT;
	to = evidence_certificates(evidence, &room);
	for (int attempt = 0; attempt < SIZE_ATTEMPTS; attempt++) {
		size_t length = data.certs_len;

		memset(to, 0, length);
		if (call(request, SNP_GET_EXT_REPORT, &data) == 0) {
			evidence->certificates = length;
			return 0;
		}
		if (vmm_error(request) != SNP_GUEST_VMM_ERR_INVALID_LEN)
			return errno == ENOTTY || errno == EINVAL ? 1 : -1;
		if (data.certs_len == 0 || data.certs_len % PAGE != 0 || data.certs_len > room)
			break;
		data.certs_address = (uint64_t)(uintptr_t)to;
	}
	evidence->left_out = "the host gives them in no size that fits";
	return 1;
}

static int ask(struct request *request, const uint8_t report_data[REPORT_DATA], struct evidence *evidence,
	       struct failure *failure)
{
	struct span report;
	int result = ask_with_certificates(request, report_data, evidence);

	if (result == 1) {
		evidence->certificates = 0;
		result = ask_alone(request, report_data);
	}
	if (result < 0)
		return refuse(request, failure);
	if (snp_response_report((struct span){ request->response.data, sizeof(request->response.data) }, &report, failure) < 0)
		return -1;
	memcpy(evidence->bytes + 4, report.at, report.length);
	return 0;
}

int sev_evidence(const char *device, const uint8_t report_data[REPORT_DATA], struct evidence *evidence,
		 struct failure *failure)
{
	struct request request = { .fd = open(device, O_RDWR | O_CLOEXEC) };
	int result;

	if (request.fd < 0)
		return fail_errno(failure, FAIL_TEE, "cannot open %s", device);
	result = ask(&request, report_data, evidence, failure);
	(void)close(request.fd);
	return result;
}
