#include "manifest.h"

#include <string.h>

#include "json.h"
#include "names.h"
#include "volumes.h"

/* One string takes at least three bytes of the document: quotes and a comma. */
static const char *pointers[MANIFEST_MAX / 3 + 16];
static size_t pointers_used;
static char arena[MANIFEST_MAX];

static struct strings read_strings(struct json *json, size_t most)
{
	struct strings list = { pointers + pointers_used, 0 };

	json_open(json, '[');
	while (json_more(json)) {
		if (list.count == most || pointers_used + 1 >= COUNT_OF(pointers)) {
			json_error(json, "a list is too long");
			break;
		}
		pointers[pointers_used++] = json_string(json);
		list.count++;
	}
	if (pointers_used < COUNT_OF(pointers))
		pointers[pointers_used++] = NULL;
	return list;
}

static void want(struct json *json, bool holds, const char *error)
{
	if (!holds)
		json_error(json, error);
}

/* Absolute, and no component is "..". */
static bool is_path(const char *text)
{
	if (text[0] != '/')
		return false;
	for (const char *at = strstr(text, "/.."); at != NULL; at = strstr(at + 1, "/.."))
		if (at[3] == '/' || at[3] == '\0')
			return false;
	return true;
}

static const char *read_path(struct json *json)
{
	const char *path = json_string(json);

	want(json, is_path(path), "a path is not absolute or holds \"..\"");
	return path;
}

static struct strings read_paths(struct json *json)
{
	struct strings list = read_strings(json, 256);

	for (size_t i = 0; i < list.count; i++)
		want(json, is_path(list.items[i]), "a path is not absolute or holds \"..\"");
	return list;
}

static void read_exact(struct json *json, uint64_t value, const char *error)
{
	want(json, json_integer(json, UINT64_MAX) == value, error);
}

static void read_disk(struct json *json, struct disk_layout *disk)
{
	const char *cipher;
	uint64_t covered;

	json_open(json, '{');
	json_key(json, "block_size");
	read_exact(json, DISK_BLOCK, "disk.block_size is not 4096");
	json_key(json, "cipher");
	cipher = json_string(json);
	disk->encrypted = strcmp(cipher, "aes-xts-plain64") == 0;
	want(json, disk->encrypted || strcmp(cipher, "none") == 0, "disk.cipher is unknown");
	json_key(json, "data_blocks");
	disk->data_blocks = json_integer(json, UINT64_C(1) << 48);
	want(json, disk->data_blocks > 0, "disk.data_blocks is 0");
	json_key(json, "filesystem");
	want(json, strcmp(json_string(json), "erofs") == 0, "disk.filesystem is not erofs");
	json_key(json, "hash_start_block");
	disk->hash_start_block = json_integer(json, UINT64_C(1) << 48);
	want(json, disk->hash_start_block > disk->data_blocks, "disk.hash_start_block is inside the covered area");
	json_key(json, "key_size");
	read_exact(json, disk->encrypted ? DISK_KEY_SIZE : 0, "disk.key_size does not fit the cipher");
	json_key(json, "payload_offset");
	disk->payload_offset = json_integer(json, UINT64_MAX);
	json_key(json, "payload_size");
	disk->payload_size = json_integer(json, UINT64_MAX);
	json_key(json, "root_hash");
	json_hex(json, disk->root_hash, sizeof(disk->root_hash));
	json_key(json, "salt");
	json_hex(json, disk->salt, sizeof(disk->salt));
	json_key(json, "sector_size");
	read_exact(json, DISK_BLOCK, "disk.sector_size is not 4096");
	json_close(json, '}');

	covered = disk->data_blocks * DISK_BLOCK;
	want(json, disk->payload_offset % DISK_BLOCK == 0 && disk->payload_size % DISK_BLOCK == 0 &&
	     disk->payload_size > 0, "the payload is not whole blocks");
	want(json, disk->payload_offset <= covered && disk->payload_size <= covered - disk->payload_offset,
	     "the payload reaches past the covered area");
	want(json, disk->encrypted || disk->payload_offset == 0, "disk.payload_offset is not 0 without a cipher");
}

static void read_mounts(struct json *json, struct manifest *manifest)
{
	json_open(json, '[');
	while (json_more(json)) {
		struct tmpfs_mount *mount = &manifest->mounts[manifest->mount_count];

		if (manifest->mount_count++ == COUNT_OF(manifest->mounts)) {
			json_error(json, "more than 64 mounts");
			return;
		}
		json_open(json, '{');
		json_key(json, "options");
		mount->options = json_string(json);
		json_key(json, "path");
		mount->path = read_path(json);
		json_close(json, '}');
	}
}

static struct strings read_volumes(struct json *json)
{
	struct strings paths = read_strings(json, VOLUMES_MAX);
	const char *error = volume_paths_error(&paths);

	if (error != NULL)
		json_error(json, error);
	return paths;
}

static void read_overrides(struct json *json, struct manifest *manifest)
{
	json_open(json, '{');
	json_key(json, "args");
	manifest->overrides.args = json_bool(json);
	json_key(json, "env");
	manifest->overrides.env = read_strings(json, 256);
	json_key(json, "etc");
	manifest->overrides.etc = json_bool(json);
	json_key(json, "hostname");
	manifest->overrides.hostname = json_bool(json);
	if (json->at < json->end && *json->at == ',') { /* the only member that need not be there */
		json_key(json, "volumes");
		manifest->overrides.volumes = read_volumes(json);
	}
	json_close(json, '}');
}

static void read_capabilities(struct json *json, struct process_spec *process)
{
	struct strings names = read_strings(json, 64);

	for (size_t i = 0; i < names.count; i++) {
		int number = capability_number(names.items[i]);

		want(json, number >= 0, "a capability is unknown");
		if (number >= 0)
			process->capabilities |= UINT64_C(1) << number;
	}
}

static void read_groups(struct json *json, struct process_spec *process)
{
	json_open(json, '[');
	while (json_more(json)) {
		if (process->group_count == COUNT_OF(process->groups)) {
			json_error(json, "more than 1024 groups");
			return;
		}
		process->groups[process->group_count++] = (uint32_t)json_integer(json, UINT32_MAX - 1);
	}
}

static void read_rlimits(struct json *json, struct process_spec *process)
{
	json_open(json, '[');
	while (json_more(json)) {
		struct rlimit_entry *entry = &process->rlimits[process->rlimit_count];

		if (process->rlimit_count++ == COUNT_OF(process->rlimits)) {
			json_error(json, "more than 16 resource limits");
			return;
		}
		json_open(json, '{');
		json_key(json, "hard");
		entry->hard = json_integer(json, UINT64_MAX);
		json_key(json, "soft");
		entry->soft = json_integer(json, UINT64_MAX);
		json_key(json, "type");
		entry->resource = rlimit_number(json_string(json));
		want(json, entry->resource >= 0, "a resource limit is unknown");
		json_close(json, '}');
	}
}

static void read_process(struct json *json, struct process_spec *process)
{
	json_open(json, '{');
	json_key(json, "args");
	process->args = read_strings(json, LIST_MAX);
	want(json, process->args.count > 0 && process->args.items[0][0] != '\0', "there is no command");
	json_key(json, "capabilities");
	read_capabilities(json, process);
	json_key(json, "cwd");
	process->cwd = read_path(json);
	json_key(json, "env");
	process->env = read_strings(json, LIST_MAX);
	for (size_t i = 0; i < process->env.count; i++)
		want(json, process->env.items[i][0] != '=' && strchr(process->env.items[i], '=') != NULL,
		     "a variable is not NAME=VALUE");
	json_key(json, "gid");
	process->gid = (uint32_t)json_integer(json, UINT32_MAX - 1);
	json_key(json, "groups");
	read_groups(json, process);
	json_key(json, "no_new_privileges");
	process->no_new_privileges = json_bool(json);
	json_key(json, "rlimits");
	read_rlimits(json, process);
	json_key(json, "uid");
	process->uid = (uint32_t)json_integer(json, UINT32_MAX - 1);
	json_key(json, "umask");
	process->umask = (uint32_t)json_integer(json, 0777);
	json_close(json, '}');
}

static void read_tees(struct json *json, struct manifest *manifest)
{
	struct strings names = read_strings(json, 3);

	for (size_t i = 0; i < names.count; i++) {
		if (strcmp(names.items[i], "software") == 0)
			manifest->tees |= TEE_SOFTWARE;
		else if (strcmp(names.items[i], "snp") == 0)
			manifest->tees |= TEE_SNP;
		else if (strcmp(names.items[i], "tdx") == 0)
			manifest->tees |= TEE_TDX;
		else
			json_error(json, "a TEE is unknown");
	}
	want(json, manifest->tees != 0, "no TEE is named");
}

static bool is_workload_id(const char *text)
{
	static const char alphabet[] = "abcdefghijklmnopqrstuvwxyz0123456789._-";
	size_t length = strlen(text);

	return length >= 1 && length <= 63 && strspn(text, alphabet) == length && strchr("._-", text[0]) == NULL;
}

static void read_manifest(struct json *json, struct manifest *manifest)
{
	json_open(json, '{');
	json_key(json, "disk");
	read_disk(json, &manifest->disk);
	json_key(json, "hostname");
	manifest->hostname = json_string(json);
	want(json, strlen(manifest->hostname) <= 64, "the hostname is longer than 64 bytes");
	json_key(json, "masked_paths");
	manifest->masked_paths = read_paths(json);
	json_key(json, "mounts");
	read_mounts(json, manifest);
	json_key(json, "overrides");
	read_overrides(json, manifest);
	json_key(json, "process");
	read_process(json, &manifest->process);
	json_key(json, "readonly_paths");
	manifest->readonly_paths = read_paths(json);
	json_key(json, "readonly_root");
	manifest->readonly_root = json_bool(json);
	json_key(json, "server");
	json_open(json, '{');
	json_key(json, "key");
	json_hex(json, manifest->server_key, sizeof(manifest->server_key));
	json_key(json, "url");
	manifest->server_url = json_string(json);
	json_close(json, '}');
	json_key(json, "tees");
	read_tees(json, manifest);
	json_key(json, "version");
	read_exact(json, 1, "the version is not 1");
	json_key(json, "workload");
	manifest->workload = json_string(json);
	want(json, is_workload_id(manifest->workload), "the workload id is not 1 to 63 of [a-z0-9._-]");
	json_close(json, '}');
	json_finish(json);
}

int manifest_parse(struct manifest *manifest, const uint8_t *bytes, size_t length, struct failure *failure)
{
	struct json json;

	memset(manifest, 0, sizeof(*manifest));
	pointers_used = 0;
	if (length > MANIFEST_MAX)
		return fail(failure, FAIL_MANIFEST, "the manifest is longer than %u bytes", MANIFEST_MAX);
	json_start(&json, bytes, length, arena, sizeof(arena));
	read_manifest(&json, manifest);
	if (json.error != NULL)
		return fail(failure, FAIL_MANIFEST, "manifest, byte %zu: %s", json_offset(&json), json.error);
	return 0;
}
