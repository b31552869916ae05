/* The workload's first process: its namespaces, its limits and rights, its program. */
#ifndef KRUNPY_PROCESS_H
#define KRUNPY_PROCESS_H

#include <sys/types.h>

#include "manifest.h"
#include "settings.h"

struct process {
	pid_t pid;
	int pidfd; /* readable when the process, and with it every process of its namespace, has ended */
	int status; /* struct process_report; end of file: the program runs, or the process has ended */
	int stdin, stdout, stderr; /* our ends, non-blocking; stdin is -1 if the workload gets none */
};

/* What the new process tells before it becomes the workload. */
struct process_report {
	uint64_t ready_us; /* since boot */
	struct failure failure; /* reason 0: ready */
};

int process_start(struct process *process, const struct manifest *manifest, struct settings *settings,
		  struct failure *failure);

#endif
