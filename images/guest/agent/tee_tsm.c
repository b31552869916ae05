#include "tee_tsm.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "nodes.h"

#define ENTRY "krunpy"
#define ATTEMPTS 8
#define FIRST_PAUSE_MS 20 /* doubles: 2.5 seconds in all */

/* One entry: its folder, and the name of the file in use. */
struct entry {
	char path[PATH_MAX];
	size_t folder; /* length of the folder's part, with the slash */
};

enum answer { ANSWERED, AGAIN, BROKEN };

bool tsm_prepare(void)
{
	if (mount("configfs", "/sys/kernel/config", "configfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0 && errno != EBUSY)
		return false;
	return access(TSM_REPORTS, F_OK) == 0;
}

static const char *file(struct entry *entry, const char *name)
{
	(void)snprintf(entry->path + entry->folder, sizeof(entry->path) - entry->folder, "%s", name);
	return entry->path;
}

/* Read a whole file: its length, or -1 with errno, EFBIG if it does not fit. */
static ssize_t read_file(struct entry *entry, const char *name, uint8_t *to, size_t room)
{
	int fd = open(file(entry, name), O_RDONLY | O_CLOEXEC), error = 0;
	size_t length = 0;
	ssize_t count = 1;
	uint8_t more;

	if (fd < 0)
		return -1;
	while (count > 0 && length < room) {
		count = read(fd, to + length, room - length);
		if (count > 0)
			length += (size_t)count;
	}
	if (count > 0)
		count = read(fd, &more, 1);
	if (count != 0)
		error = count < 0 ? errno : EFBIG;
	(void)close(fd);
	errno = error;
	return error == 0 ? (ssize_t)length : -1;
}

static bool read_number(struct entry *entry, unsigned long *value)
{
	char line[32], *end;

	if (!read_line(file(entry, "generation"), line, sizeof(line)))
		return false;
	*value = strtoul(line, &end, 10);
	return end != line && *end == '\0';
}

/* The kernel takes the bytes when the file is closed, and cannot say then that it did not: the generation says it. */
static bool write_request(struct entry *entry, const uint8_t report_data[REPORT_DATA])
{
	int fd = open(file(entry, "inblob"), O_WRONLY | O_CLOEXEC);
	ssize_t count;

	if (fd < 0)
		return false;
	count = write(fd, report_data, REPORT_DATA);
	return (close(fd) == 0) & (count == (ssize_t)REPORT_DATA);
}

static enum answer refuse_read(const char *name, struct failure *failure)
{
	if (errno == EAGAIN || errno == EBUSY || errno == EINTR)
		return AGAIN;
	(void)fail_errno(failure, FAIL_TEE, "the kernel gives no %s", name);
	return BROKEN;
}

static enum answer read_blobs(struct entry *entry, struct evidence *evidence, struct failure *failure)
{
	size_t room;
	uint8_t *to = evidence_report(evidence, &room);
	ssize_t length = read_file(entry, "outblob", to, room);

	if (length < 0)
		return refuse_read("outblob", failure);
	evidence->report = (size_t)length;
	to = evidence_certificates(evidence, &room);
	length = read_file(entry, "auxblob", to, room);
	if (length < 0 && (errno == EAGAIN || errno == EBUSY || errno == EINTR))
		return AGAIN;
	/* The verifier can get the certificates elsewhere. */
	evidence->certificates = length < 0 ? 0 : (size_t)length;
	if (length < 0 && errno != ENOENT)
		evidence->left_out = errno == EFBIG ? "they are too many" : "the kernel does not give them";
	return ANSWERED;
}

static enum answer ask(struct entry *entry, const uint8_t report_data[REPORT_DATA], struct evidence *evidence,
		       struct failure *failure)
{
	unsigned long before, ours, after;
	enum answer answer;

	if (!read_number(entry, &before) || !write_request(entry, report_data) || !read_number(entry, &ours)) {
		(void)fail_errno(failure, FAIL_TEE, "cannot use %s", entry->path);
		return BROKEN;
	}
	if (ours != before + 1)
		return AGAIN;
	answer = read_blobs(entry, evidence, failure);
	if (answer != ANSWERED)
		return answer;
	return read_number(entry, &after) && after == ours ? ANSWERED : AGAIN;
}

static int require_provider(struct entry *entry, enum tee_bit bit, struct failure *failure)
{
	const char *wanted = bit == TEE_SNP ? "sev_guest" : "tdx_guest";
	char provider[64];

	if (!read_line(file(entry, "provider"), provider, sizeof(provider)))
		return fail_errno(failure, FAIL_TEE, "cannot read %s", entry->path);
	if (strcmp(provider, wanted) != 0)
		return fail(failure, FAIL_TEE, "configfs-tsm is served by \"%s\", wanted \"%s\"", provider, wanted);
	return 0;
}

static int ask_until_answered(struct entry *entry, const uint8_t report_data[REPORT_DATA], struct evidence *evidence,
			      struct failure *failure)
{
	int pause = FIRST_PAUSE_MS;

	for (int attempt = 0; attempt < ATTEMPTS; attempt++, pause *= 2) {
		switch (ask(entry, report_data, evidence, failure)) {
		case ANSWERED:
			return 0;
		case BROKEN:
			return -1;
		case AGAIN:
			if (attempt + 1 < ATTEMPTS)
				sleep_ms(pause);
		}
	}
	return fail(failure, FAIL_TEE, "the kernel gave no report of ours in %d attempts", ATTEMPTS);
}

int tsm_evidence(const char *reports, enum tee_bit bit, const uint8_t report_data[REPORT_DATA],
		 struct evidence *evidence, struct failure *failure)
{
	struct entry entry;
	int length = snprintf(entry.path, sizeof(entry.path), "%s/" ENTRY "/", reports), result;

	if (length < 0 || (size_t)length + NAME_MAX >= sizeof(entry.path))
		return fail(failure, FAIL_INTERNAL, "the path of configfs is too long");
	entry.folder = (size_t)length;
	if (mkdir(entry.path, 0700) < 0)
		return fail_errno(failure, FAIL_TEE, "cannot make %s", entry.path);
	result = require_provider(&entry, bit, failure);
	if (result == 0)
		result = ask_until_answered(&entry, report_data, evidence, failure);
	entry.path[entry.folder] = '\0';
	(void)rmdir(entry.path);
	return result;
}
