/*
 * The agent's pure parts and TEE drivers as a program, so that the tests can hold them against Python.
 *
 * agent-tool COMMAND: binary input on stdin (hex where said), text on stdout; exit 1 and a line "REASON TEXT" if the
 * agent would refuse.
 */
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "binding.h"
#include "frame.h"
#include "items.h"
#include "manifest.h"
#include "options.h"
#include "settings.h"
#include "tee_sev.h"
#include "tee_tsm.h"

static uint8_t input[1 << 20];
static size_t input_length;

static int refuse(const struct failure *failure)
{
	printf("%u %s\n", failure->reason, failure->text);
	return 1;
}

static void print_hex(const char *name, const uint8_t *bytes, size_t length)
{
	printf("%s ", name);
	for (size_t i = 0; i < length; i++)
		printf("%02x", bytes[i]);
	printf("\n");
}

static void print_text(const char *name, const char *text)
{
	print_hex(name, (const uint8_t *)text, strlen(text));
}

static void print_strings(const char *name, const struct strings *list)
{
	for (size_t i = 0; i < list->count; i++)
		print_text(name, list->items[i]);
}

static void print_number(const char *name, uint64_t value)
{
	printf("%s %llu\n", name, (unsigned long long)value);
}

static void print_manifest(const struct manifest *manifest)
{
	const struct process_spec *process = &manifest->process;

	print_number("encrypted", manifest->disk.encrypted);
	print_number("data_blocks", manifest->disk.data_blocks);
	print_number("hash_start_block", manifest->disk.hash_start_block);
	print_number("payload_offset", manifest->disk.payload_offset);
	print_number("payload_size", manifest->disk.payload_size);
	print_hex("root_hash", manifest->disk.root_hash, 32);
	print_hex("salt", manifest->disk.salt, 32);
	print_text("hostname", manifest->hostname);
	print_strings("masked", &manifest->masked_paths);
	print_strings("readonly", &manifest->readonly_paths);
	print_number("readonly_root", manifest->readonly_root);
	for (size_t i = 0; i < manifest->mount_count; i++) {
		print_text("mount", manifest->mounts[i].path);
		print_text("options", manifest->mounts[i].options);
	}
	print_number("override_args", manifest->overrides.args);
	print_strings("override_env", &manifest->overrides.env);
	print_number("override_etc", manifest->overrides.etc);
	print_number("override_hostname", manifest->overrides.hostname);
	print_strings("arg", &process->args);
	print_strings("env", &process->env);
	print_text("cwd", process->cwd);
	print_number("capabilities", process->capabilities);
	print_number("uid", process->uid);
	print_number("gid", process->gid);
	print_number("umask", process->umask);
	for (size_t i = 0; i < process->group_count; i++)
		print_number("group", process->groups[i]);
	for (size_t i = 0; i < process->rlimit_count; i++)
		printf("rlimit %d %llu %llu\n", process->rlimits[i].resource,
		       (unsigned long long)process->rlimits[i].soft, (unsigned long long)process->rlimits[i].hard);
	print_number("no_new_privileges", process->no_new_privileges);
	print_hex("server_key", manifest->server_key, 32);
	print_text("server_url", manifest->server_url);
	print_number("tees", manifest->tees);
	print_text("workload", manifest->workload);
}

static struct manifest manifest;

/* stdin: the document. */
static int command_manifest(void)
{
	struct failure failure = { 0 };

	if (manifest_parse(&manifest, input, input_length, &failure) < 0)
		return refuse(&failure);
	print_manifest(&manifest);
	return 0;
}

/* Take u16 length and that many bytes off the input. */
static bool take(struct span *rest, struct span *part)
{
	if (rest->length < 2 || get_u16(rest->at) > rest->length - 2)
		return false;
	*part = (struct span){ rest->at + 2, get_u16(rest->at) };
	*rest = (struct span){ part->at + part->length, rest->length - 2 - part->length };
	return true;
}

/* stdin: secret key 32, enc 32, u16 length, info, u16 length, aad, ciphertext. */
static int command_hpke(void)
{
	static uint8_t plaintext[sizeof(input)];
	struct hpke_keys keys;
	struct span info, aad, rest = { input + 64, input_length - 64 };

	if (input_length < 64 || !take(&rest, &info) || !take(&rest, &aad))
		return 2;
	memcpy(keys.secret, input, 32);
	if (crypto_scalarmult_base(keys.public, keys.secret) != 0)
		return 2;
	if (hpke_open(&keys, input + 32, info, aad, rest, plaintext) < 0)
		return 1;
	print_hex("plaintext", plaintext, rest.length - HPKE_TAG);
	return 0;
}

static int read_binding(struct binding *binding)
{
	if (input_length < 96)
		return -1;
	memcpy(binding->nonce, input, 32);
	memcpy(binding->guest_key, input + 32, 32);
	memcpy(binding->manifest_hash, input + 64, 32);
	return 0;
}

/* stdin: nonce 32, guest key 32, manifest hash 32. */
static int command_binding(void)
{
	struct binding binding;
	uint8_t report_data[REPORT_DATA], transcript[TRANSCRIPT];

	if (read_binding(&binding) < 0)
		return 2;
	binding_report_data(report_data, &binding);
	binding_transcript(transcript, &binding);
	print_hex("report_data", report_data, sizeof(report_data));
	print_hex("transcript", transcript, sizeof(transcript));
	return 0;
}

/* stdin: nonce 32, guest secret key 32, manifest hash 32, server key 32, u8 encrypted, payload of RELEASE. */
static int command_release(void)
{
	static uint8_t plaintext[sizeof(input)];
	struct failure failure = { 0 };
	struct binding binding;
	struct hpke_keys keys;
	struct span key;
	size_t length;

	if (input_length < 129 || read_binding(&binding) < 0)
		return 2;
	memcpy(keys.secret, binding.guest_key, 32);
	if (crypto_scalarmult_base(keys.public, keys.secret) != 0)
		return 2;
	memcpy(binding.guest_key, keys.public, 32);
	if (release_open(&binding, input + 96, &keys, (struct span){ input + 129, input_length - 129 }, plaintext,
			 &length, &failure) < 0)
		return refuse(&failure);
	key = release_disk_key((struct span){ plaintext, length }, input[128] != 0);
	if (key.at == NULL)
		return 1;
	print_hex("disk_key", key.at, key.length);
	return 0;
}

/* stdin: u8 chunk length in bytes, phase (both as one byte), then a stream of frames. */
static int command_frames(void)
{
	static struct frame_reader reader;
	struct failure failure = { 0 };

	if (input_length < 2 || input[0] == 0)
		return 2;
	for (size_t at = 2; at < input_length;) {
		size_t room, left = input_length - at;
		uint8_t *space = frame_space(&reader, &room);
		struct frame frame;
		int result;

		if (room > input[0])
			room = input[0];
		if (room > left)
			room = left;
		memcpy(space, input + at, room);
		at += room;
		result = frame_filled(&reader, room, (enum phase)input[1], &frame, &failure);
		if (result < 0)
			return refuse(&failure);
		if (result == 1)
			printf("%u ", frame.type);
		if (result == 1)
			print_hex("payload", frame.payload.at, frame.payload.length);
	}
	return 0;
}

static int print_note(void *context, const char *text)
{
	(void)context;
	print_text("note", text);
	return 0;
}

/* stdin: u32 length, manifest, payload of RUN. */
static int command_run(void)
{
	struct failure failure = { 0 };
	struct settings settings;
	size_t length;

	if (input_length < 4 || get_u32(input) > input_length - 4)
		return 2;
	length = get_u32(input);
	if (manifest_parse(&manifest, input + 4, length, &failure) < 0 ||
	    settings_apply(&settings, &manifest, (struct span){ input + 4 + length, input_length - 4 - length },
			   print_note, NULL, &failure) < 0)
		return refuse(&failure);
	for (size_t i = 0; settings.args[i] != NULL; i++)
		print_text("arg", settings.args[i]);
	for (size_t i = 0; settings.env[i] != NULL; i++)
		print_text("env", settings.env[i]);
	print_text("hostname", settings.hostname);
	for (size_t i = 0; i < ETC_FILES; i++)
		if (settings.etc[i] != NULL)
			print_text(etc_paths[i], settings.etc[i]);
	print_number("stdin_empty", settings.stdin_empty);
	return 0;
}

/* stdin: mount options. */
static int command_options(void)
{
	struct tmpfs_options options;
	const char *unknown;

	input[input_length] = '\0';
	unknown = options_parse(&options, (const char *)input);
	if (unknown != NULL) {
		print_text("unknown", unknown);
		return 1;
	}
	print_number("flags", options.flags);
	print_text("data", options.data);
	return 0;
}

/* stdin: any bytes. */
static int command_clean(void)
{
	char text[TEXT_MAX + 1];

	text_clean(text, sizeof(text), input, input_length);
	print_text("text", text);
	return 0;
}

static struct evidence evidence;

static int print_evidence(enum tee_bit bit, const uint8_t report_data[REPORT_DATA])
{
	struct failure failure = { 0 };
	struct span payload;

	if (evidence_finish(&evidence, bit, report_data, &payload, &failure) < 0)
		return refuse(&failure);
	if (evidence.left_out != NULL)
		print_text("left_out", evidence.left_out);
	print_hex("evidence", payload.at, payload.length);
	return 0;
}

/* stdin: u8 bit of the TEE, report_data 64, path of the folder of reports. */
static int command_tsm(void)
{
	struct failure failure = { 0 };
	enum tee_bit bit = (enum tee_bit)input[0];

	if (input_length < 66)
		return 2;
	input[input_length] = '\0';
	if (tsm_evidence((const char *)input + 65, bit, input + 1, &evidence, &failure) < 0)
		return refuse(&failure);
	return print_evidence(bit, input + 1);
}

/* stdin: report_data 64, path of the device. */
static int command_sev(void)
{
	struct failure failure = { 0 };

	if (input_length < 65)
		return 2;
	input[input_length] = '\0';
	if (sev_evidence((const char *)input + 64, input, &evidence, &failure) < 0)
		return refuse(&failure);
	return print_evidence(TEE_SNP, input);
}

/* stdin: u8 bit of the TEE, report_data 64, report. */
static int command_report(void)
{
	struct failure failure = { 0 };

	if (input_length < 65)
		return 2;
	return report_check((enum tee_bit)input[0], (struct span){ input + 65, input_length - 65 }, input + 1, &failure) < 0 ?
		       refuse(&failure) :
		       0;
}

/* stdin: u8 bit of the TEE, manifest hash 32, payload of EVIDENCE. */
static int command_host_data(void)
{
	struct failure failure = { 0 };
	struct span payload = { input + 33, input_length - 33 };

	if (input_length < 33)
		return 2;
	return evidence_names_manifest((enum tee_bit)input[0], payload, input + 1, &failure) < 0 ? refuse(&failure) : 0;
}

/* stdin: a certificate table. */
static int command_certificates(void)
{
	size_t length = certificates_length((struct span){ input, input_length });

	if (length == CERTIFICATES_BAD)
		return 1;
	print_number("length", length);
	return 0;
}

/* stdin: the firmware's answer. */
static int command_response(void)
{
	struct failure failure = { 0 };
	struct span report;

	if (snp_response_report((struct span){ input, input_length }, &report, &failure) < 0)
		return refuse(&failure);
	print_hex("report", report.at, report.length);
	return 0;
}

static const struct {
	const char *name;
	int (*run)(void);
} commands[] = {
	{ "manifest", command_manifest }, { "hpke", command_hpke }, { "binding", command_binding },
	{ "release", command_release }, { "frames", command_frames }, { "run", command_run },
	{ "options", command_options }, { "clean", command_clean }, { "tsm", command_tsm }, { "sev", command_sev },
	{ "report", command_report }, { "host-data", command_host_data }, { "certificates", command_certificates }, { "response", command_response },
};

int main(int count, char **arguments)
{
	ssize_t part;

	if (count != 2 || sodium_init() < 0)
		return 2;
	while ((part = read(STDIN_FILENO, input + input_length, sizeof(input) - 1 - input_length)) > 0)
		input_length += (size_t)part;
	for (size_t i = 0; i < COUNT_OF(commands); i++)
		if (strcmp(arguments[1], commands[i].name) == 0)
			return commands[i].run();
	return 2;
}
