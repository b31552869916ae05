#include "channel.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "nodes.h"

#define PORTS "/sys/class/virtio-ports"
#define PORT_NAME "krunpy.ctl"
#define VSOCK_PORT 27506 /* "kr" */
#define WAIT_MS 10000
#define STEP_MS 2

/* Make the node of the port, if it is there yet. */
static bool find_port(void)
{
	DIR *directory = opendir(PORTS);
	struct dirent *entry;
	bool found = false;

	if (directory == NULL)
		return false;
	while (!found && (entry = readdir(directory)) != NULL) {
		char path[sizeof(PORTS) + sizeof(entry->d_name) + 8], name[64];

		if (entry->d_name[0] == '.')
			continue;
		(void)snprintf(path, sizeof(path), PORTS "/%s/name", entry->d_name);
		if (!read_line(path, name, sizeof(name)) || strcmp(name, PORT_NAME) != 0)
			continue;
		(void)snprintf(path, sizeof(path), PORTS "/%s/dev", entry->d_name);
		found = make_node(path, "/dev/channel", S_IFCHR);
	}
	(void)closedir(directory);
	return found;
}

/* Connect to the host's vsock port. False if the kernel has no vsock, or no device for it yet. */
static bool connect_vsock(struct channel *channel)
{
	struct sockaddr_vm host = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = VSOCK_PORT };
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return false;
	if (connect(fd, (const struct sockaddr *)(const void *)&host, sizeof(host)) < 0) {
		(void)close(fd);
		return false;
	}
	channel->fd = fd;
	return true;
}

int channel_open(struct channel *channel, struct failure *failure)
{
	bool is_port = false;

	for (int waited = 0; !(is_port = find_port()) && !connect_vsock(channel); waited += STEP_MS) {
		if (waited >= WAIT_MS)
			return fail(failure, FAIL_CHANNEL,
				    "there is no virtio-serial port named " PORT_NAME ", and no vsock");
		sleep_ms(STEP_MS);
	}
	if (is_port)
		channel->fd = open("/dev/channel", O_RDWR | O_CLOEXEC);
	if (channel->fd < 0)
		return fail_errno(failure, FAIL_CHANNEL, "cannot open the channel");
	return 0;
}

static int write_all(int fd, const uint8_t *bytes, size_t length, struct failure *failure)
{
	while (length > 0) {
		ssize_t count = write(fd, bytes, length);

		if (count < 0 && errno == EINTR)
			continue;
		if (count <= 0)
			return fail_errno(failure, FAIL_CHANNEL, "cannot write to the channel");
		bytes += count;
		length -= (size_t)count;
	}
	return 0;
}

int channel_send(struct channel *channel, enum frame_type type, const void *payload, size_t length,
		 struct failure *failure)
{
	uint8_t *to = channel_payload(channel, length);

	if (to == NULL)
		return fail(failure, FAIL_INTERNAL, "a frame of %zu bytes does not fit", length);
	memcpy(to, payload, length);
	channel_queue(channel, type, 0, length);
	if (write_all(channel->fd, channel->outbox + channel->sent, channel->queued - channel->sent, failure) < 0)
		return -1;
	channel->sent = channel->queued = 0;
	return 0;
}

int channel_poll(struct channel *channel, enum phase phase, struct frame *frame, struct failure *failure)
{
	for (;;) {
		size_t room;
		uint8_t *space = frame_space(&channel->reader, &room);
		ssize_t count = room == 0 ? 0 : read(channel->fd, space, room);
		int result;

		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0 && errno == EAGAIN)
			return 0;
		if (count < 0)
			return fail_errno(failure, FAIL_CHANNEL, "cannot read from the channel");
		if (count == 0)
			return fail(failure, FAIL_CHANNEL, "the host closed the channel");
		result = frame_filled(&channel->reader, (size_t)count, phase, frame, failure);
		if (result != 0)
			return result;
	}
}

int channel_receive(struct channel *channel, enum phase phase, struct frame *frame, struct failure *failure)
{
	char text[TEXT_MAX + 1];
	int result;

	do
		result = channel_poll(channel, phase, frame, failure);
	while (result == 0);
	if (result < 0)
		return -1;
	if (frame->type != FRAME_REFUSED)
		return 0;
	text_clean(text, sizeof(text), frame->payload.at, frame->payload.length);
	return fail(failure, FAIL_REFUSED, "%s", text);
}

static void set_blocking(int fd, bool blocking)
{
	int flags = fcntl(fd, F_GETFL);

	(void)fcntl(fd, F_SETFL, blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK);
}

int channel_unblock(struct channel *channel, struct failure *failure)
{
	set_blocking(channel->fd, false);
	if ((fcntl(channel->fd, F_GETFL) & O_NONBLOCK) == 0)
		return fail(failure, FAIL_INTERNAL, "the channel cannot be set to not block");
	return 0;
}

uint8_t *channel_payload(struct channel *channel, size_t length)
{
	if (length > FRAME_PAYLOAD_MAX || channel->queued + FRAME_HEADER + length > OUTBOX_ROOM - OUTBOX_RESERVE)
		return NULL;
	return channel->outbox + channel->queued + FRAME_HEADER;
}

void channel_queue(struct channel *channel, enum frame_type type, uint8_t stream, size_t length)
{
	frame_header(channel->outbox + channel->queued, type, stream, length);
	channel->queued += FRAME_HEADER + length;
}

int channel_flush(struct channel *channel, struct failure *failure)
{
	while (channel->sent < channel->queued) {
		ssize_t count = write(channel->fd, channel->outbox + channel->sent, channel->queued - channel->sent);

		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0 && errno == EAGAIN)
			return 0;
		if (count <= 0)
			return fail_errno(failure, FAIL_CHANNEL, "cannot write to the channel");
		channel->sent += (size_t)count;
	}
	channel->sent = channel->queued = 0;
	return 0;
}

/* Write the outbox and drop whatever still comes, until the host closes its end or nothing moves for `seconds`. */
static void await_hangup(struct channel *channel, int seconds)
{
	struct failure ignored = { 0 };
	uint8_t dropped[4096];

	for (;;) {
		struct pollfd entry = { .fd = channel->fd, .events = POLLIN };

		if (channel_flush(channel, &ignored) < 0)
			return;
		if (channel->sent < channel->queued)
			entry.events = POLLIN | POLLOUT;
		if (poll(&entry, 1, seconds * 1000) <= 0 || (entry.revents & (POLLHUP | POLLERR)) != 0)
			return;
		if ((entry.revents & POLLIN) != 0 && read(channel->fd, dropped, sizeof(dropped)) == 0)
			return;
	}
}

void channel_finish(struct channel *channel, enum frame_type type, const void *payload, size_t length, int seconds)
{
	if (channel->fd < 0 || FRAME_HEADER + length > OUTBOX_RESERVE)
		return;
	set_blocking(channel->fd, false);
	memcpy(channel->outbox + channel->queued + FRAME_HEADER, payload, length);
	channel_queue(channel, type, 0, length);
	await_hangup(channel, seconds);
}
