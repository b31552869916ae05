/* Names of capabilities and resource limits. */
#ifndef KRUNPY_NAMES_H
#define KRUNPY_NAMES_H

/* Number of "CAP_CHOWN", or -1. */
int capability_number(const char *name);

/* Number of "RLIMIT_NOFILE", or -1. */
int rlimit_number(const char *name);

#endif
