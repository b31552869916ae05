#include "settings.h"

#include <stdio.h>
#include <string.h>

#include "frame.h"
#include "items.h"

#define ENV_ITEMS_MAX 1024u

struct request {
	const char *hostname; /* NULL: the host says nothing */
	const char *args[FRAME_PAYLOAD_MAX / 4 + 1];
	size_t arg_count;
	const char *env[ENV_ITEMS_MAX];
	size_t env_count;
	const char *etc[ETC_FILES];
	struct volume volumes[VOLUMES_MAX];
	size_t volume_count;
	bool stdin_empty;
};

/* An item's header is longer than the NUL that ends its copy. */
static char strings[FRAME_PAYLOAD_MAX];
static struct request request;
static const char *env[LIST_MAX + ENV_ITEMS_MAX + 4];
static size_t env_count;
const char *const etc_paths[ETC_FILES] = { "/etc/hosts", "/etc/resolv.conf", "/etc/hostname" };

static bool is_hostname(const char *text)
{
	static const char alphabet[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
	size_t length = strlen(text);

	return length >= 1 && length <= 64 && strspn(text, alphabet) == length;
}

static int read_volume(const char *text, struct failure *failure)
{
	struct volume *volume = &request.volumes[request.volume_count];

	if (request.volume_count == VOLUMES_MAX)
		return fail(failure, FAIL_SETTINGS, "more than %u host volumes", VOLUMES_MAX);
	if (!volume_read(volume, text))
		return fail(failure, FAIL_SETTINGS, "a host volume is not TAG:ro:PATH or TAG:rw:PATH");
	for (size_t i = 0; i < request.volume_count; i++)
		if (strcmp(request.volumes[i].path, volume->path) == 0 || strcmp(request.volumes[i].tag, volume->tag) == 0)
			return fail(failure, FAIL_SETTINGS, "a host volume is given twice");
	request.volume_count++;
	return 0;
}

static int read_item(const struct item *item, const char *text, struct failure *failure)
{
	switch (item->tag) {
	case RUN_HOSTNAME:
		if (request.hostname != NULL || !is_hostname(text))
			return fail(failure, FAIL_SETTINGS, "the host's hostname is given twice or is not one");
		request.hostname = text;
		return 0;
	case RUN_ENV:
		if (request.env_count == ENV_ITEMS_MAX)
			return fail(failure, FAIL_SETTINGS, "more than %u host variables", ENV_ITEMS_MAX);
		if (text[0] == '=' || strchr(text, '=') == NULL)
			return fail(failure, FAIL_SETTINGS, "a host variable is not NAME=VALUE");
		request.env[request.env_count++] = text;
		return 0;
	case RUN_ARG:
		request.args[request.arg_count++] = text;
		return 0;
	case RUN_HOSTS:
	case RUN_RESOLV_CONF:
	case RUN_HOSTNAME_FILE:
		if (request.etc[item->tag - RUN_HOSTS] != NULL)
			return fail(failure, FAIL_SETTINGS, "host setting %u is given twice", item->tag);
		request.etc[item->tag - RUN_HOSTS] = text;
		return 0;
	case RUN_VOLUME:
		return read_volume(text, failure);
	case RUN_STDIN_EMPTY:
		if (item->bytes.length != 0)
			return fail(failure, FAIL_SETTINGS, "host setting 4 is not empty");
		request.stdin_empty = true;
		return 0;
	default:
		return fail(failure, FAIL_SETTINGS, "unknown host setting %u", item->tag);
	}
}

static int read_items(struct span run, struct failure *failure)
{
	char *to = strings;
	struct item item;
	int more;

	if (run.length > sizeof(strings))
		return fail(failure, FAIL_SETTINGS, "the host's settings are too long");
	while ((more = item_next(&run, &item)) == 1) {
		const char *text = to;

		if (memchr(item.bytes.at, 0, item.bytes.length) != NULL)
			return fail(failure, FAIL_SETTINGS, "a host setting holds NUL");
		memcpy(to, item.bytes.at, item.bytes.length);
		to[item.bytes.length] = '\0';
		to += item.bytes.length + 1;
		if (read_item(&item, text, failure) < 0)
			return -1;
	}
	if (more < 0)
		return fail(failure, FAIL_SETTINGS, "the host's settings are not a list of items");
	return 0;
}

/* Index of the variable with the name that `text` starts with, or env_count. */
static size_t find_variable(const char *text, size_t name_length)
{
	size_t i = 0;

	while (i < env_count && (strncmp(env[i], text, name_length) != 0 || env[i][name_length] != '='))
		i++;
	return i;
}

static bool is_named(const struct strings *names, const char *text, size_t length)
{
	for (size_t i = 0; i < names->count; i++)
		if (strncmp(names->items[i], text, length) == 0 && names->items[i][length] == '\0')
			return true;
	return false;
}

static int refuse(settings_note *note, void *context, const char *name, size_t length)
{
	char raw[TEXT_MAX + 1], text[TEXT_MAX + 1];
	int shown = (int)(length < 200 ? length : 200);

	(void)snprintf(raw, sizeof(raw), "%.*s from the host is not allowed by the manifest", shown, name);
	text_clean(text, sizeof(text), (const uint8_t *)raw, strlen(raw));
	return note(context, text);
}

static int apply_hostname(struct settings *settings, const struct manifest *manifest, settings_note *note,
			  void *context)
{
	const char *hostname = manifest->hostname[0] != '\0' ? manifest->hostname : "krunpy";

	if (request.hostname != NULL && strcmp(request.hostname, hostname) != 0) {
		if (manifest->overrides.hostname)
			hostname = request.hostname;
		else if (refuse(note, context, "hostname", 8) < 0)
			return -1;
	}
	(void)snprintf(settings->hostname, sizeof(settings->hostname), "%s", hostname);
	return 0;
}

static int apply_args(struct settings *settings, const struct manifest *manifest, settings_note *note,
		      void *context)
{
	const struct strings *own = &manifest->process.args;
	bool same = request.arg_count == own->count;

	settings->args = own->items;
	if (request.arg_count == 0)
		return 0;
	for (size_t i = 0; same && i < own->count; i++)
		same = strcmp(request.args[i], own->items[i]) == 0;
	if (same)
		return 0;
	if (!manifest->overrides.args)
		return refuse(note, context, "args", 4);
	request.args[request.arg_count] = NULL;
	settings->args = request.args;
	return 0;
}

static int apply_env(const struct settings *settings, const struct manifest *manifest, settings_note *note,
		     void *context)
{
	for (size_t i = 0; i < request.env_count; i++) {
		const char *text = request.env[i];
		size_t length = (size_t)(strchr(text, '=') - text), at = find_variable(text, length);
		bool hostname = manifest->overrides.hostname && strncmp(text, "HOSTNAME=", 9) == 0 &&
				strcmp(text + 9, settings->hostname) == 0;

		if (at < env_count && strcmp(env[at], text) == 0)
			continue;
		if (!hostname && !is_named(&manifest->overrides.env, text, length)) {
			if (refuse(note, context, text, length) < 0)
				return -1;
			continue;
		}
		env[at] = text;
		if (at == env_count)
			env_count++;
	}
	return 0;
}

static int apply_etc(struct settings *settings, const struct manifest *manifest, settings_note *note, void *context)
{
	for (size_t i = 0; i < ETC_FILES; i++) {
		if (request.etc[i] == NULL)
			continue;
		if (manifest->overrides.etc)
			settings->etc[i] = request.etc[i];
		else if (refuse(note, context, etc_paths[i], strlen(etc_paths[i])) < 0)
			return -1;
	}
	return 0;
}

static int apply_volumes(struct settings *settings, const struct manifest *manifest, settings_note *note, void *context)
{
	for (size_t i = 0; i < request.volume_count; i++) {
		const struct volume *volume = &request.volumes[i];

		if (is_named(&manifest->overrides.volumes, volume->path, strlen(volume->path)))
			settings->volumes[settings->volume_count++] = *volume;
		else if (refuse(note, context, volume->path, strlen(volume->path)) < 0)
			return -1;
	}
	return 0;
}

int settings_apply(struct settings *settings, const struct manifest *manifest, struct span run,
		   settings_note *note, void *context, struct failure *failure)
{
	static char hostname_variable[80];

	memset(&request, 0, sizeof(request));
	memset(settings, 0, sizeof(*settings));
	env_count = 0;
	if (read_items(run, failure) < 0)
		return -1;
	for (size_t i = 0; i < manifest->process.env.count; i++)
		env[env_count++] = manifest->process.env.items[i];
	if (apply_hostname(settings, manifest, note, context) < 0 || apply_args(settings, manifest, note, context) < 0 ||
	    apply_env(settings, manifest, note, context) < 0 || apply_etc(settings, manifest, note, context) < 0 ||
	    apply_volumes(settings, manifest, note, context) < 0)
		return -1;
	settings->stdin_empty = request.stdin_empty;
	settings->env = env;
	env[env_count] = NULL;
	if (manifest->overrides.hostname && settings_variable(settings, "HOSTNAME") == NULL) {
		(void)snprintf(hostname_variable, sizeof(hostname_variable), "HOSTNAME=%s", settings->hostname);
		(void)settings_add(settings, hostname_variable);
	}
	return 0;
}

const char *settings_variable(const struct settings *settings, const char *name)
{
	size_t length = strlen(name), at = find_variable(name, length);

	return at == env_count ? NULL : settings->env[at] + length + 1;
}

bool settings_add(struct settings *settings, const char *text)
{
	if (env_count + 1 >= COUNT_OF(env))
		return false;
	settings->env[env_count++] = text;
	settings->env[env_count] = NULL;
	return true;
}
