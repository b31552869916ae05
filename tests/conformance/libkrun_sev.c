/* A libkrun-sev for crun's krun handler: says what it is told, and what the files hold that it is named. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define PUBLIC __attribute__((visibility("default")))

/* The size of a file in bytes, and its FNV-1a hash of 64 bits. */
static void describe(const char *name, const char *path)
{
    uint64_t hash = 0xcbf29ce484222325u;
    long size = 0;
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        printf("%s %s missing\n", name, path);
        return;
    }
    for (int octet = getc(file); octet != EOF; octet = getc(file), size++)
        hash = (hash ^ (uint64_t)octet) * 0x100000001b3u;
    fclose(file);
    printf("%s %s %ld %016llx\n", name, path, size, (unsigned long long)hash);
}

PUBLIC int32_t krun_create_ctx(void)
{
    return 7;
}

PUBLIC int32_t krun_set_log_level(uint32_t level)
{
    (void)level;
    return 0;
}

PUBLIC int32_t krun_set_vm_config(uint32_t context, uint8_t vcpus, uint32_t memory_mib)
{
    (void)vcpus, (void)memory_mib;
    return context == 7 ? 0 : -22;
}

PUBLIC int32_t krun_set_root_disk(uint32_t context, const char *path)
{
    describe("disk", path);
    return context == 7 ? 0 : -22;
}

PUBLIC int32_t krun_set_tee_config_file(uint32_t context, const char *path)
{
    describe("config", path);
    return context == 7 ? 0 : -22;
}

PUBLIC int32_t krun_start_enter(uint32_t context)
{
    printf("start %u\n", context);
    fflush(stdout);
    exit(42);
}
