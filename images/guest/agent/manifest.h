/* The manifest (docs/protocol.md 1): what the owner of the workload wants, measured. */
#ifndef KRUNPY_MANIFEST_H
#define KRUNPY_MANIFEST_H

#include <stdbool.h>

#include "bytes.h"
#include "fail.h"

#define MANIFEST_MAX (256u * 1024u) /* bytes */
#define DISK_BLOCK 4096u
#define DISK_KEY_SIZE 64u
#define LIST_MAX 4096u
#define VOLUMES_MAX 8u

/* C strings, with a NULL after the last. */
struct strings {
	const char **items;
	size_t count;
};

struct disk_layout {
	uint64_t data_blocks, hash_start_block;
	uint64_t payload_offset, payload_size; /* bytes */
	uint8_t root_hash[32], salt[32];
	bool encrypted; /* aes-xts-plain64; else none */
};

struct tmpfs_mount {
	const char *path, *options;
};

struct rlimit_entry {
	int resource;
	uint64_t soft, hard;
};

struct process_spec {
	struct strings args, env;
	const char *cwd;
	uint64_t capabilities; /* bit n: capability n */
	uint32_t uid, gid, umask;
	uint32_t groups[1024];
	size_t group_count;
	struct rlimit_entry rlimits[16];
	size_t rlimit_count;
	bool no_new_privileges;
};

enum tee_bit { TEE_SOFTWARE = 1, TEE_SNP = 2, TEE_TDX = 4 };

struct manifest {
	struct disk_layout disk;
	const char *hostname; /* "": as the host says, if it may */
	struct strings masked_paths, readonly_paths;
	bool readonly_root;
	struct tmpfs_mount mounts[64];
	size_t mount_count;
	struct {
		bool args, etc, hostname;
		struct strings env;
		struct strings volumes; /* where the host may mount directories of its own */
	} overrides;
	struct process_spec process;
	uint8_t server_key[32]; /* Ed25519 */
	const char *server_url;
	uint8_t tees; /* enum tee_bit */
	const char *workload;
};

/*
 * Read the manifest. Its strings live in static memory: one manifest per process at a time.
 *
 * Fails (manifest) on anything but the canonical bytes of a manifest of version 1.
 */
int manifest_parse(struct manifest *manifest, const uint8_t *bytes, size_t length, struct failure *failure);

#endif
