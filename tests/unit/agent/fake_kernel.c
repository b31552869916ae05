/*
 * Plays the kernel's configfs-tsm and /dev/sev-guest for agent-tool, by LD_PRELOAD. FAKE_ variables say what happens;
 * those that are counts are used up.
 *
 * FAKE_TSM=FOLDER   the folder of reports: whoever makes a folder in it finds attributes there
 * FAKE_SEV=PATH     the device
 * FAKE_ANSWER=FILE  report or quote, FAKE_AT=OFFSET of report_data in it; FAKE_CERTIFICATES=FILE
 * As drivers/virt/coco/tsm.c and fs/configfs/file.c of Linux 6.12 do it: bytes written are taken at close, silently.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sev-guest.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

static int request_fd = -1, device_fd = -1;
static unsigned long generation;
static unsigned char report_data[64];

/* Take one off a count; false if none is left. */
static int use_up(const char *name)
{
	const char *value = getenv(name);
	char text[32];
	int left = value == NULL ? 0 : atoi(value);

	snprintf(text, sizeof(text), "%d", left - 1);
	if (left > 0)
		setenv(name, text, 1);
	return left > 0;
}

static int number(const char *name)
{
	const char *value = getenv(name);

	return value == NULL ? 0 : atoi(value);
}

static size_t load(const char *variable, unsigned char *to, size_t room)
{
	FILE *stream = getenv(variable) == NULL ? NULL : fopen(getenv(variable), "r");
	size_t length = stream == NULL ? 0 : fread(to, 1, room, stream);

	if (stream != NULL)
		fclose(stream);
	return length;
}

static int serve(const void *bytes, size_t length)
{
	int fd = memfd_create("attribute", 0);

	if (write(fd, bytes, length) != (ssize_t)length)
		abort();
	lseek(fd, 0, SEEK_SET);
	return fd;
}

static int serve_answer(void)
{
	static unsigned char answer[1 << 17];
	size_t length = load("FAKE_ANSWER", answer, sizeof(answer)), at = (size_t)number("FAKE_AT");

	if (use_up("FAKE_BUSY"))
		return errno = EAGAIN, -1;
	if (number("FAKE_ERRNO") != 0)
		return errno = number("FAKE_ERRNO"), -1;
	if (at + 64 <= length)
		memcpy(answer + at, report_data, 64);
	generation += use_up("FAKE_INTRUDERS"); /* somebody else wrote to the entry meanwhile */
	return serve(answer, length);
}

static int open_attribute(const char *name)
{
	static unsigned char blob[1 << 17];
	char line[80];

	if (strcmp(name, "provider") == 0)
		return serve(line, (size_t)snprintf(line, sizeof(line), "%s\n", getenv("FAKE_PROVIDER")));
	if (strcmp(name, "generation") == 0)
		return serve(line, (size_t)snprintf(line, sizeof(line), "%lu\n", generation));
	if (strcmp(name, "inblob") == 0)
		return request_fd = serve("", 0);
	if (strcmp(name, "outblob") == 0)
		return serve_answer();
	if (strcmp(name, "auxblob") == 0 && getenv("FAKE_CERTIFICATES") != NULL)
		return serve(blob, load("FAKE_CERTIFICATES", blob, sizeof(blob)));
	return errno = ENOENT, -1;
}

int open(const char *path, int flags, ...)
{
	static int (*next)(const char *, int, ...);
	const char *reports = getenv("FAKE_TSM"), *device = getenv("FAKE_SEV");

	if (reports != NULL && strncmp(path, reports, strlen(reports)) == 0 && strrchr(path, '/') > path + strlen(reports))
		return open_attribute(strrchr(path, '/') + 1);
	if (device != NULL && strcmp(path, device) == 0)
		return device_fd = serve("", 0);
	if (next == NULL)
		*(void **)&next = dlsym(RTLD_NEXT, "open");
	return next(path, flags, 0);
}

int close(int fd)
{
	static int (*next)(int);

	if (fd >= 0 && fd == request_fd) {
		unsigned char bytes[65];
		ssize_t length = pread(fd, bytes, sizeof(bytes), 0);

		request_fd = -1;
		if (length == 64 && !use_up("FAKE_LOST")) {
			memcpy(report_data, bytes, 64);
			generation++;
		}
	}
	if (next == NULL)
		*(void **)&next = dlsym(RTLD_NEXT, "close");
	return next(fd);
}

static int give_certificates(struct snp_guest_request_ioctl *call, struct snp_ext_report_req *request)
{
	static unsigned char table[1 << 17];
	size_t length = load("FAKE_CERTIFICATES", table, sizeof(table)), pages = (length + 4095) / 4096 * 4096;

	if (number("FAKE_NO_EXTENDED") != 0)
		return errno = ENOTTY, -1;
	if (request->certs_len < pages || use_up("FAKE_RESIZED")) {
		request->certs_len = (unsigned int)pages;
		call->exitinfo2 = (uint64_t)SNP_GUEST_VMM_ERR_INVALID_LEN << 32;
		return errno = EIO, -1;
	}
	memcpy((void *)(uintptr_t)request->certs_address, table, pages);
	return 0;
}

int ioctl(int fd, unsigned long kind, ...)
{
	va_list values;
	struct snp_guest_request_ioctl *call;
	const struct snp_report_req *request;
	unsigned char *response;

	va_start(values, kind);
	call = va_arg(values, struct snp_guest_request_ioctl *);
	va_end(values);
	if (fd != device_fd || call->msg_version != 1)
		return errno = EINVAL, -1;
	if (use_up("FAKE_BUSY")) {
		call->exitinfo2 = (uint64_t)SNP_GUEST_VMM_ERR_BUSY << 32;
		return errno = number("FAKE_TIMED_OUT") ? ETIMEDOUT : EIO, -1;
	}
	if (number("FAKE_ERRNO") != 0) {
		call->exitinfo2 = 0x16;
		return errno = number("FAKE_ERRNO"), -1;
	}
	if (kind == SNP_GET_EXT_REPORT && give_certificates(call, (struct snp_ext_report_req *)(uintptr_t)call->req_data) < 0)
		return -1;
	request = (const struct snp_report_req *)(uintptr_t)call->req_data; /* the first member of the other one, too */
	response = (unsigned char *)(uintptr_t)call->resp_data;
	load("FAKE_ANSWER", response, 4000);
	if (number("FAKE_AT") != 0)
		memcpy(response + number("FAKE_AT"), request->user_data, 64);
	return request->vmpl == 0 ? 0 : (errno = EINVAL, -1);
}
