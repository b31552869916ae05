/* Limits and rights of the workload's first process. */
#ifndef KRUNPY_CREDENTIALS_H
#define KRUNPY_CREDENTIALS_H

#include "manifest.h"

/* Take the limits, groups, ids and capabilities for good. Only execve may follow. */
int credentials_take(const struct process_spec *spec, struct failure *failure);

#endif
