/* While the workload runs: stdio, signals and its end, between the pipes and the channel. */
#ifndef KRUNPY_LOOP_H
#define KRUNPY_LOOP_H

#include "channel.h"
#include "disk.h"
#include "process.h"

#define STARTED_TIMES 6u

/* Microseconds since boot; see STARTED in docs/protocol.md 3. */
struct timings {
	uint64_t at[STARTED_TIMES];
};

struct exit_status {
	uint8_t kind; /* 0 exited, 1 signalled */
	uint8_t value;
};

/*
 * Serve until the workload has ended and all it wrote is with the host.
 *
 * Nothing that the workload wrote is sent before STARTED, nor after a corrupt block was seen on its disk.
 */
int loop_run(struct channel *channel, struct process *process, const struct disk *disk, struct timings *timings,
	     struct exit_status *status, struct failure *failure);

#endif
