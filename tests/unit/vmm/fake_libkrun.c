/* A libkrun that starts nothing: it writes down how it is called, and fails where it is told to.
 *
 * Compiled with -DLOG="file to append calls to", -DFAIL="function that fails with ENOENT", -DTEE for a TEE,
 * -DONLY_UNTIL=N with the functions of libkrun 1.N only. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef LOG
#define LOG "/dev/null"
#endif
#ifndef FAIL
#define FAIL ""
#endif
#ifndef ONLY_UNTIL
#define ONLY_UNTIL 99
#endif

static int file = -1;

__attribute__((constructor)) static void open_log(void) { /* as whoever loads it: it may be nobody later */
    file = open(LOG, O_WRONLY | O_APPEND | O_CREAT, 0666);
}

static int32_t note(const char *name, const char *format, ...) {
    char line[4096];
    va_list arguments;
    int length = snprintf(line, sizeof line, "%s", name);
    va_start(arguments, format);
    length += vsnprintf(line + length, sizeof line - length, format, arguments);
    va_end(arguments);
    line[length++] = '\n';
    if (write(file, line, length) != length)
        abort();
    return strcmp(name, FAIL) ? 0 : -ENOENT;
}

#define S(text) ((text) ? (text) : "NULL")

int32_t krun_set_log_level(uint32_t level) { return note(__func__, " %u", level); }
int32_t krun_create_ctx(void) { int32_t failed = note(__func__, ""); return failed ? failed : 7; }
int32_t krun_set_vm_config(uint32_t c, uint8_t cpus, uint32_t mib) { return note(__func__, " %u %u %u", c, cpus, mib); }
int32_t krun_add_disk(uint32_t c, const char *id, const char *path, bool ro) {
    return note(__func__, " %u %s %s %d", c, id, path, ro);
}
int32_t krun_add_virtiofs(uint32_t c, const char *tag, const char *path) { return note(__func__, " %u %s %s", c, tag, path); }
int32_t krun_add_vsock_port(uint32_t c, uint32_t port, const char *path) { return note(__func__, " %u %u %s", c, port, path); }
int32_t krun_set_port_map(uint32_t c, const char *const map[]) {
    int count = 0;
    while (map[count]) /* NULL in place of the list crashes here, as in libkrun */
        count++;
    return note(__func__, " %u %d %s", c, count, S(map[0]));
}
int32_t krun_start_enter(uint32_t c) {
    printf("libkrun prints\n");
    fflush(stdout);
    return note(__func__, " %u RUST_LOG=%s HOSTNAME=%s", c, S(getenv("RUST_LOG")), S(getenv("HOSTNAME")));
}
#if ONLY_UNTIL >= 11
int32_t krun_set_kernel(uint32_t c, const char *path, uint32_t format, const char *initrd, const char *cmdline) {
    return note(__func__, " %u %s %u %s %s", c, path, format, S(initrd), S(cmdline));
}
#endif
#if ONLY_UNTIL >= 13
int32_t krun_init_log(int fd, uint32_t level, uint32_t style, uint32_t options) {
    return note(__func__, " %d %u %u %u", fd, level, style, options);
}
#endif
#if ONLY_UNTIL >= 17
int32_t krun_disable_implicit_console(uint32_t c) { return note(__func__, " %u", c); }
int32_t krun_add_virtio_console_default(uint32_t c, int in, int out, int err) {
    return note(__func__, " %u %d %d %d", c, in, out, err);
}
int32_t krun_disable_implicit_vsock(uint32_t c) { return note(__func__, " %u", c); }
int32_t krun_add_vsock(uint32_t c, uint32_t tsi) { return note(__func__, " %u %u", c, tsi); }
#endif
#if ONLY_UNTIL >= 18
int32_t krun_add_virtiofs3(uint32_t c, const char *tag, const char *path, uint64_t shm, bool ro) {
    return note(__func__, " %u %s %s %d %d", c, tag, path, (int)shm, ro);
}
#endif
#ifdef TEE
int32_t krun_set_tee_config_file(uint32_t c, const char *path) { return note(__func__, " %u %s", c, path); }
int32_t krun_split_irqchip(uint32_t c, bool enable) { return note(__func__, " %u %d", c, enable); }
#endif
