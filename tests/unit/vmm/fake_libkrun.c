/* A libkrun that starts nothing: it writes down how it is called, and fails where it is told to.
 *
 * Compiled with -DLOG="file to append calls to", -DFAIL="function that fails with ENOENT", -DTEE for a TEE,
 * -DONLY_UNTIL=N with the functions of libkrun 1.N only, -DFEATURES=BITS for what krun_has_feature says. For a TEE it
 * asks the loader for the bundle by name, as libkrun does, and writes down what it finds there. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#ifndef LOG
#define LOG "/dev/null"
#endif
#ifndef FAIL
#define FAIL ""
#endif
#ifndef ROOM
#define ROOM (300ull << 20) /* bytes that a machine in a TEE must be able to lock */
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
#ifdef TEE
static uint32_t hash(const unsigned char *bytes, size_t size) { /* FNV-1a */
    uint32_t value = 2166136261u;
    for (size_t at = 0; at < size; at++)
        value = (value ^ bytes[at]) * 16777619u;
    return value;
}

static void note_part(void *library, const char *name) {
    unsigned char *(*get)(size_t *) = (unsigned char *(*)(size_t *))dlsym(library, name);
    size_t size = 0;
    unsigned char *bytes = get ? get(&size) : NULL;
    note(name, " %zu %08x", size, bytes ? hash(bytes, size) : 0);
}

static int32_t load_bundle(void) {
    void *library = dlopen("libkrunfw-sev.so.5", RTLD_LAZY | RTLD_LOCAL);
    unsigned char *(*get)(size_t *, size_t *, size_t *);
    size_t load = 0, entry = 0, size = 0;
    if (!library)
        return note("no bundle", "");
    get = (unsigned char *(*)(size_t *, size_t *, size_t *))dlsym(library, "krunfw_get_kernel");
    unsigned char *bytes = get(&load, &entry, &size);
    note("krunfw_get_kernel", " %zx %zx %zu %08x", load, entry, size, hash(bytes, size));
    note_part(library, "krunfw_get_initrd");
    note_part(library, "krunfw_get_qboot");
    return 0;
}
#else
static int32_t load_bundle(void) { return 0; }
#endif
int32_t krun_create_ctx(void) {
    int32_t failed = note(__func__, "");
    load_bundle();
    return failed ? failed : 7;
}
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
#ifdef TEE
static char config_path[64];

static void note_config(void) { /* opened when the machine is entered, as who it is by then */
    char text[1024] = "";
    int fd = open(config_path, O_RDONLY);
    ssize_t length = read(fd, text, sizeof text - 1);
    note("config", " %s", length > 0 ? text : "cannot be read");
    struct rlimit limit;
    getrlimit(RLIMIT_MEMLOCK, &limit);
    note("memlock", " %d", limit.rlim_cur >= ROOM ? 1 : 0);
}
#else
static void note_config(void) {}
#endif
#ifdef FEATURES
int32_t krun_has_feature(uint64_t feature) {
    return feature > 7 ? -EINVAL : (int32_t)((uint32_t)(FEATURES) >> feature & 1);
}
#endif
int32_t krun_start_enter(uint32_t c) {
    note_config();
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
int32_t krun_set_tee_config_file(uint32_t c, const char *path) {
    snprintf(config_path, sizeof config_path, "%s", path);
    return note(__func__, " %u %s", c, path);
}
int32_t krun_split_irqchip(uint32_t c, bool enable) { return note(__func__, " %u %d", c, enable); }
#endif
