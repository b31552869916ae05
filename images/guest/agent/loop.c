#include "loop.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define STDIN_WINDOW 65536u /* bytes */

enum { CHANNEL, PIDFD, STATUS, STDOUT, STDERR, STDIN, POLLED };

struct loop {
	struct channel *channel;
	struct process *process;
	const struct disk *disk;
	struct timings *timings;
	struct exit_status *exit_status;
	bool started; /* STARTED is queued: output may flow */
	bool executed; /* signals reach the workload */
	bool ended; /* exit_status is set */
	bool stdin_ended; /* by the host */
	bool stderr_first; /* the streams take turns */
	uint64_t signals; /* bit n - 1: signal n is to be delivered */
	uint8_t input[STDIN_WINDOW]; /* ring: `held` bytes from `first` on */
	size_t first, held;
	uint32_t unacknowledged;
};

static void close_end(int *fd)
{
	if (*fd >= 0)
		(void)close(*fd);
	*fd = -1;
}

static void close_stdin(struct loop *loop)
{
	close_end(&loop->process->stdin);
	loop->unacknowledged += (uint32_t)loop->held;
	loop->held = 0;
}

static void deliver_signals(struct loop *loop)
{
	for (int number = 1; loop->signals != 0; number++) {
		uint64_t bit = UINT64_C(1) << (number - 1);

		if ((loop->signals & bit) != 0 && !loop->ended)
			(void)kill(loop->process->pid, number);
		loop->signals &= ~bit;
	}
}

static int take_signal(struct loop *loop, uint8_t number, struct failure *failure)
{
	if (number < 1 || number > 64)
		return fail(failure, FAIL_CHANNEL, "signal %u is not 1 to 64", number);
	loop->signals |= UINT64_C(1) << (number - 1);
	if (loop->executed)
		deliver_signals(loop);
	return 0;
}

static int take_input(struct loop *loop, struct span bytes, struct failure *failure)
{
	size_t end, part;

	if (loop->stdin_ended)
		return fail(failure, FAIL_CHANNEL, "STDIN after STDIN_EOF");
	if (bytes.length > STDIN_WINDOW - loop->held - loop->unacknowledged)
		return fail(failure, FAIL_CHANNEL, "more than %u bytes of STDIN are not acknowledged", STDIN_WINDOW);
	if (loop->process->stdin < 0) {
		loop->unacknowledged += (uint32_t)bytes.length;
		return 0;
	}
	end = (loop->first + loop->held) % STDIN_WINDOW;
	part = bytes.length < STDIN_WINDOW - end ? bytes.length : STDIN_WINDOW - end;
	memcpy(loop->input + end, bytes.at, part);
	memcpy(loop->input, bytes.at + part, bytes.length - part);
	loop->held += bytes.length;
	return 0;
}

static void feed_workload(struct loop *loop)
{
	while (loop->held > 0) {
		size_t part = STDIN_WINDOW - loop->first;
		ssize_t count;

		if (part > loop->held)
			part = loop->held;
		count = write(loop->process->stdin, loop->input + loop->first, part);
		if (count < 0 && errno == EAGAIN)
			return;
		if (count < 0) {
			close_stdin(loop); /* nobody reads: the bytes are as good as handed over */
			return;
		}
		loop->first = (loop->first + (size_t)count) % STDIN_WINDOW;
		loop->held -= (size_t)count;
		loop->unacknowledged += (uint32_t)count;
	}
}

static int take_frame(struct loop *loop, const struct frame *frame, struct failure *failure)
{
	switch (frame->type) {
	case FRAME_STDIN:
		return take_input(loop, frame->payload, failure);
	case FRAME_STDIN_EOF:
		loop->stdin_ended = true;
		return 0;
	case FRAME_SIGNAL:
		return take_signal(loop, frame->payload.at[0], failure);
	default:
		return fail(failure, FAIL_INTERNAL, "a frame that the reader should have refused");
	}
}

static int read_channel(struct loop *loop, struct failure *failure)
{
	struct frame frame;
	int result = channel_poll(loop->channel, RUNNING, &frame, failure);

	return result == 1 ? take_frame(loop, &frame, failure) : result;
}

static void queue_started(struct loop *loop)
{
	uint8_t *payload = channel_payload(loop->channel, 8 * STARTED_TIMES);

	for (size_t i = 0; i < STARTED_TIMES; i++)
		put_u64(payload + 8 * i, loop->timings->at[i]);
	channel_queue(loop->channel, FRAME_STARTED, 0, 8 * STARTED_TIMES);
	loop->started = true;
}

static int read_report(struct loop *loop, struct failure *failure)
{
	struct process_report report;
	ssize_t count = read(loop->process->status, &report, sizeof(report));

	if (count < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (count == (ssize_t)sizeof(report)) {
		*failure = report.failure;
		if (failure->reason != 0)
			return -1;
		loop->timings->at[STARTED_TIMES - 1] = report.ready_us;
		queue_started(loop);
		return 0;
	}
	if (!loop->started)
		return fail(failure, FAIL_PROCESS, "the process ended before it could run the workload");
	close_end(&loop->process->status);
	loop->executed = true;
	deliver_signals(loop);
	return 0;
}

static int forward(struct loop *loop, int *fd, uint8_t stream, struct failure *failure)
{
	uint8_t *payload = channel_payload(loop->channel, FRAME_PAYLOAD_MAX);
	ssize_t count;

	if (payload == NULL)
		return 0; /* the other stream came first */
	count = read(*fd, payload, FRAME_PAYLOAD_MAX);
	if (count < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (count < 0)
		return fail_errno(failure, FAIL_INTERNAL, "cannot read what the workload writes");
	if (!disk_is_intact(loop->disk))
		return fail(failure, FAIL_INTEGRITY, "the disk was changed: a block does not fit the root hash");
	if (count == 0)
		close_end(fd);
	channel_queue(loop->channel, FRAME_OUTPUT, stream, (size_t)count);
	return 0;
}

/* One stream may fill the outbox: the other one is first the next time. */
static int forward_both(struct loop *loop, const struct pollfd polled[POLLED], struct failure *failure)
{
	loop->stderr_first = !loop->stderr_first;
	if (loop->stderr_first && polled[STDERR].revents != 0 && forward(loop, &loop->process->stderr, 2, failure) < 0)
		return -1;
	if (polled[STDOUT].revents != 0 && forward(loop, &loop->process->stdout, 1, failure) < 0)
		return -1;
	if (!loop->stderr_first && polled[STDERR].revents != 0 && forward(loop, &loop->process->stderr, 2, failure) < 0)
		return -1;
	return 0;
}

static int reap(struct loop *loop, struct failure *failure)
{
	siginfo_t info = { 0 };

	if (waitid(P_PID, (id_t)loop->process->pid, &info, WEXITED) < 0)
		return fail_errno(failure, FAIL_INTERNAL, "cannot wait for the workload");
	loop->exit_status->kind = info.si_code == CLD_EXITED ? 0 : 1;
	loop->exit_status->value = (uint8_t)info.si_status;
	loop->ended = true;
	close_end(&loop->process->pidfd);
	close_stdin(loop);
	return 0;
}

static void acknowledge(struct loop *loop)
{
	uint8_t *payload = channel_payload(loop->channel, 4);

	if (!loop->started || loop->unacknowledged == 0 || payload == NULL)
		return;
	put_u32(payload, loop->unacknowledged);
	channel_queue(loop->channel, FRAME_STDIN_ACK, 0, 4);
	loop->unacknowledged = 0;
}

static bool is_idle(const struct channel *channel)
{
	return channel->sent == channel->queued;
}

/* A pollfd with a negative descriptor is not looked at. */
static void choose(const struct loop *loop, struct pollfd polled[POLLED])
{
	const struct process *process = loop->process;
	bool output = loop->started && is_idle(loop->channel);

	polled[CHANNEL] = (struct pollfd){ .fd = loop->channel->fd,
					   .events = (short)(is_idle(loop->channel) ? POLLIN : POLLIN | POLLOUT) };
	polled[PIDFD] = (struct pollfd){ .fd = process->pidfd, .events = POLLIN };
	polled[STATUS] = (struct pollfd){ .fd = process->status, .events = POLLIN };
	polled[STDOUT] = (struct pollfd){ .fd = output ? process->stdout : -1, .events = POLLIN };
	polled[STDERR] = (struct pollfd){ .fd = output ? process->stderr : -1, .events = POLLIN };
	polled[STDIN] = (struct pollfd){ .fd = loop->held > 0 ? process->stdin : -1, .events = POLLOUT };
}

static int serve(struct loop *loop, const struct pollfd polled[POLLED], struct failure *failure)
{
	if (polled[CHANNEL].revents != 0 && read_channel(loop, failure) < 0)
		return -1;
	if (polled[STATUS].revents != 0 && read_report(loop, failure) < 0)
		return -1;
	if (forward_both(loop, polled, failure) < 0)
		return -1;
	if (loop->process->status < 0 && polled[PIDFD].revents != 0 && reap(loop, failure) < 0)
		return -1;
	if (loop->process->stdin >= 0) {
		feed_workload(loop);
		if (loop->stdin_ended && loop->held == 0)
			close_stdin(loop);
	}
	acknowledge(loop);
	return channel_flush(loop->channel, failure);
}

static bool is_over(const struct loop *loop)
{
	return loop->ended && loop->process->stdout < 0 && loop->process->stderr < 0 && is_idle(loop->channel);
}

int loop_run(struct channel *channel, struct process *process, const struct disk *disk, struct timings *timings,
	     struct exit_status *status, struct failure *failure)
{
	static struct loop loop;

	loop = (struct loop){ .channel = channel, .process = process, .disk = disk, .timings = timings,
			      .exit_status = status };
	if (channel_unblock(channel, failure) < 0)
		return -1;
	while (!is_over(&loop)) {
		struct pollfd polled[POLLED];

		choose(&loop, polled);
		if (poll(polled, POLLED, -1) < 0) {
			if (errno == EINTR)
				continue;
			return fail_errno(failure, FAIL_INTERNAL, "cannot poll");
		}
		if (serve(&loop, polled, failure) < 0)
			return -1;
	}
	if (!disk_is_intact(disk))
		return fail(failure, FAIL_INTEGRITY, "the disk was changed: a block does not fit the root hash");
	return 0;
}
