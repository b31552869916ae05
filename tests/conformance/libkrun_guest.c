/*
 * A machine for libkrun's guest client, which is built beside this file and not part of it: /dev/sev-guest is a Unix
 * socket that takes REPORT_DATA and gives a report, and the arguments are what the image's footer would say.
 *
 * Link with --wrap=open and --wrap=ioctl. Usage: guest SOCKET URL WORKLOAD TEE_DATA
 */
#include <fcntl.h>
#include <linux/sev-guest.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { REPORT_SIZE = 1184, REPORT_DATA_SIZE = 64, REPORT_OFFSET = 32, TEXT_SIZE = 512, STALE_SIZE = 65536 };

int snp_attest(char *passphrase, char *url, char *workload, char *tee_data);
int __real_open(const char *path, int flags, ...);
int __real_ioctl(int fd, unsigned long request, ...);

static const char *device;
static int device_fd = -1;

int __wrap_open(const char *path, int flags, ...)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (strcmp(path, "/dev/sev-guest") != 0)
        return __real_open(path, flags, 0600);
    strncpy(address.sun_path, device, sizeof(address.sun_path) - 1);
    device_fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(device_fd, (struct sockaddr *)&address, sizeof(address)) != 0)
        return -1;
    return device_fd;
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
    struct snp_guest_request_ioctl *asked;
    uint8_t *response;
    uint32_t head[2] = {0, REPORT_SIZE};
    va_list rest;

    va_start(rest, request);
    asked = va_arg(rest, void *);
    va_end(rest);
    if (fd != device_fd)
        return __real_ioctl(fd, request, asked);
    response = (uint8_t *)asked->resp_data; /* status, size, 24 reserved bytes, the report */
    if (write(fd, (void *)asked->req_data, REPORT_DATA_SIZE) != REPORT_DATA_SIZE)
        return -1;
    memcpy(response, head, sizeof(head));
    return recv(fd, response + REPORT_OFFSET, REPORT_SIZE, MSG_WAITALL) == REPORT_SIZE ? 0 : -1;
}

/* a guest that has just booted has a stack of zeros, and the client counts on it: its nonce has no NUL of its own */
static void __attribute__((noinline)) clear_stack(void)
{
    volatile char stale[STALE_SIZE];

    for (size_t at = 0; at < sizeof(stale); at++)
        stale[at] = 0;
}

int main(int argc, char **argv)
{
    char texts[3][TEXT_SIZE], passphrase[TEXT_SIZE] = "";

    if (argc != 5)
        return 2;
    device = argv[1];
    for (int at = 0; at < 3; at++)
        snprintf(texts[at], TEXT_SIZE, "%s", argv[at + 2]);
    setvbuf(stdout, NULL, _IONBF, 0);
    clear_stack();
    if (snp_attest(passphrase, texts[0], texts[1], texts[2]) != 0)
        return 1;
    printf("PASSPHRASE %s\n", passphrase);
    return 0;
}
