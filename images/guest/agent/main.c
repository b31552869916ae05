/*
 * The krunpy guest agent: PID 1 of a confidential virtual machine. docs/protocol.md says what it does and in which
 * order; each step here either succeeds or ends the machine.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/reboot.h>
#include <net/if.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "binding.h"
#include "boot.h"
#include "channel.h"
#include "disk.h"
#include "items.h"
#include "loop.h"
#include "manifest.h"
#include "modules.h"
#include "nodes.h"
#include "process.h"
#include "settings.h"
#include "tee.h"
#include "tee_report.h"

#define PROTOCOL_VERSION 1
#define EXIT_WAIT 60 /* seconds for the host to read the end of the output and hang up */
#define FAIL_WAIT 5

enum { AGENT_START, HELLO_SENT, EVIDENCE_SENT, RELEASE_RECEIVED, DISK_MOUNTED, WORKLOAD_READY };

/* One machine, one session: everything it holds, in static memory. */
static struct channel channel;
static struct manifest manifest;
static struct disk disk;
static struct process process;
static struct settings settings;
static struct timings timings;
static struct binding binding;
static struct hpke_keys keys;
static struct exit_status exit_status;
static uint8_t document[MANIFEST_MAX + 1];
static size_t document_length;
static bool is_class; /* the initrd holds no manifest: many workloads share it, and the host says which */

static void stamp(unsigned int moment)
{
	timings.at[moment] = microseconds();
}

/* Descriptors 0 to 2 are open, so that nothing else gets these numbers; /sys is there. */
static int prepare(struct failure *failure)
{
	int fd;

	(void)umask(0);
	(void)signal(SIGPIPE, SIG_IGN);
	if (boot_leave_volume(failure) < 0)
		return -1;
	if (mkdir("/dev", 0755) < 0 && errno != EEXIST)
		return fail_errno(failure, FAIL_INTERNAL, "cannot make /dev");
	(void)mknod("/dev/null", S_IFCHR | 0666, makedev(1, 3));
	do
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	while (fd >= 0 && fd <= 2);
	(void)close(fd);
	if ((mkdir("/sys", 0755) < 0 && errno != EEXIST) || mount("sysfs", "/sys", "sysfs", 0, NULL) < 0)
		return fail_errno(failure, FAIL_INTERNAL, "cannot mount /sys");
	if (sodium_init() < 0)
		return fail(failure, FAIL_INTERNAL, "libsodium cannot start");
	return 0;
}

static int read_manifest(struct failure *failure)
{
	int fd = open("/manifest.json", O_RDONLY | O_CLOEXEC);
	ssize_t count;

	if (fd < 0 && errno == ENOENT) {
		is_class = true;
		return 0;
	}
	if (fd < 0)
		return fail_errno(failure, FAIL_MANIFEST, "cannot open /manifest.json");
	while ((count = read(fd, document + document_length, sizeof(document) - document_length)) > 0)
		document_length += (size_t)count;
	(void)close(fd);
	if (count < 0)
		return fail_errno(failure, FAIL_MANIFEST, "cannot read /manifest.json");
	return 0;
}

/* Nothing says yet that it is the right one: prove() holds it against this machine's own report. */
static int receive_manifest(struct failure *failure)
{
	struct frame frame;

	if (channel_receive(&channel, AWAIT_MANIFEST, &frame, failure) < 0)
		return -1;
	_Static_assert(FRAME_MANIFEST_MAX <= sizeof(document), "every MANIFEST fits");
	memcpy(document, frame.payload.at, frame.payload.length);
	document_length = frame.payload.length;
	return 0;
}

static int load_manifest(struct failure *failure)
{
	if (is_class && receive_manifest(failure) < 0)
		return -1;
	(void)crypto_hash_sha256(binding.manifest_hash, document, document_length);
	return manifest_parse(&manifest, document, document_length, failure);
}

static int make_key(struct failure *failure)
{
	if (getrandom(keys.secret, sizeof(keys.secret), 0) != (ssize_t)sizeof(keys.secret))
		return fail_errno(failure, FAIL_INTERNAL, "the kernel gives no random bytes");
	if (crypto_scalarmult_base(keys.public, keys.secret) != 0)
		return fail(failure, FAIL_INTERNAL, "cannot make the guest key");
	memcpy(binding.guest_key, keys.public, sizeof(binding.guest_key));
	return 0;
}

static int say_hello(const struct tee *tee, struct failure *failure)
{
	uint8_t hello[4 + 32 + 32] = { 0 };

	put_u16(hello, PROTOCOL_VERSION);
	hello[2] = tee->number;
	memcpy(hello + 4, binding.guest_key, 32);
	memcpy(hello + 36, binding.manifest_hash, 32);
	if (channel_send(&channel, FRAME_HELLO, hello, sizeof(hello), failure) < 0)
		return -1;
	stamp(HELLO_SENT);
	return 0;
}

static int prove(const struct tee *tee, struct failure *failure)
{
	uint8_t report_data[REPORT_DATA];
	struct span evidence;
	struct frame frame;

	if (channel_receive(&channel, AWAIT_CHALLENGE, &frame, failure) < 0)
		return -1;
	memcpy(binding.nonce, frame.payload.at, sizeof(binding.nonce));
	binding_report_data(report_data, &binding);
	if (tee->evidence(&channel, report_data, &evidence, failure) < 0)
		return -1;
	if (is_class && evidence_names_manifest(tee->bit, evidence, binding.manifest_hash, failure) < 0)
		return -1;
	if (channel_send(&channel, FRAME_EVIDENCE, evidence.at, evidence.length, failure) < 0)
		return -1;
	stamp(EVIDENCE_SENT);
	return 0;
}

static int raise_loopback(struct failure *failure)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int result = fd < 0 ? -1 : ioctl(fd, SIOCSIFFLAGS, &request);

	if (result < 0)
		(void)fail_errno(failure, FAIL_INTERNAL, "cannot raise the loopback interface");
	if (fd >= 0)
		(void)close(fd);
	return result;
}

/* Wait for the release, open it, and mount the disk with the key that is in it. Every secret dies here. */
static int unlock(struct failure *failure)
{
	static uint8_t plaintext[FRAME_PAYLOAD_MAX];
	struct frame frame;
	struct span key;
	size_t length = 0;
	int result = -1;

	if (channel_receive(&channel, AWAIT_RELEASE, &frame, failure) < 0)
		return -1;
	stamp(RELEASE_RECEIVED);
	if (release_open(&binding, manifest.server_key, &keys, frame.payload, plaintext, &length, failure) < 0)
		goto end;
	key = release_disk_key((struct span){ plaintext, length }, manifest.disk.encrypted);
	if (key.at == NULL)
		(void)fail(failure, FAIL_SEAL, "the release does not hold what the manifest's disk needs");
	else
		result = disk_mount(&disk, &manifest.disk, key.at, failure);
end:
	sodium_memzero(plaintext, sizeof(plaintext));
	sodium_memzero(keys.secret, sizeof(keys.secret));
	stamp(DISK_MOUNTED);
	return result;
}

static int send_note(void *failure, const char *text)
{
	return channel_send(&channel, FRAME_NOTE, text, strlen(text), failure);
}

static int run(struct failure *failure)
{
	struct frame frame;

	if (disk.is_copy && send_note(failure, "the guest's kernel has no overlayfs: all files were copied into memory") < 0)
		return -1;
	if (channel_receive(&channel, AWAIT_RUN, &frame, failure) < 0 ||
	    settings_apply(&settings, &manifest, frame.payload, send_note, failure, failure) < 0 ||
	    process_start(&process, &manifest, &settings, failure) < 0)
		return -1;
	return loop_run(&channel, &process, &disk, &timings, &exit_status, failure);
}

static int session(struct failure *failure)
{
	struct failure early = { 0 };
	const struct tee *tee;

	/* The first failure is told as soon as there is a channel to tell it on. */
	if (prepare(&early) == 0) {
		(void)read_manifest(&early);
		(void)modules_load_first(&early);
	}
	if (channel_open(&channel, failure) < 0) {
		if (early.reason != 0)
			*failure = early;
		return -1;
	}
	*failure = early;
	if (failure->reason != 0)
		return -1;
	if (load_manifest(failure) < 0)
		return -1;
	tee = tee_choose(manifest.tees, failure);
	if (tee == NULL || make_key(failure) < 0 || say_hello(tee, failure) < 0 || prove(tee, failure) < 0)
		return -1;
	/* None of this needs a secret, and the host is busy with the server. */
	if (modules_load_rest(failure) < 0 || raise_loopback(failure) < 0 || disk_verify(&disk, &manifest.disk, failure) < 0)
		return -1;
	return unlock(failure) < 0 ? -1 : run(failure);
}

static void report_end(int result, const struct failure *failure)
{
	uint8_t payload[2 + TEXT_MAX] = { exit_status.kind, exit_status.value };
	size_t length = strlen(failure->text);

	if (result == 0) {
		channel_finish(&channel, FRAME_EXIT, payload, 2, EXIT_WAIT);
		return;
	}
	put_u16(payload, failure->reason == 0 ? FAIL_INTERNAL : failure->reason);
	memcpy(payload + 2, failure->text, length);
	channel_finish(&channel, FRAME_FAIL, payload, 2 + length, FAIL_WAIT);
}

/* For whoever looks at the console when there is no channel. */
static void tell_console(const struct failure *failure)
{
	if (channel.fd < 0)
		dprintf(STDERR_FILENO, "krunpy: %s\n", failure->text);
}

int main(void)
{
	struct failure failure = { 0 };
	int result;

	stamp(AGENT_START);
	channel.fd = -1; /* an initialiser would put its buffers into the file */
	result = session(&failure);
	sodium_memzero(&keys, sizeof(keys));
	if (result < 0)
		tell_console(&failure);
	report_end(result, &failure);
	(void)reboot(LINUX_REBOOT_CMD_RESTART); /* the machine is started so that this is its end */
	return 1; /* PID 1 that ends is a panic: the end as well */
}
