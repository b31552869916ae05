/* Finding and executing the workload's program. */
#ifndef KRUNPY_PROGRAM_H
#define KRUNPY_PROGRAM_H

#include "settings.h"

/* Add HOME from the image's /etc/passwd, if the workload has none. */
void program_set_home(struct settings *settings, uint32_t uid);

/* Become the program, or say on stderr why not and return the exit code: 127 not found, 126 found. */
int program_execute(const struct settings *settings);

#endif
