/* Any bytes as the payload of RUN, as the plaintext of RELEASE, as RELEASE itself, and as text. */
#include <stdlib.h>
#include <string.h>

#include "binding.h"
#include "items.h"
#include "settings.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int check_note(void *context, const char *text)
{
	(void)context;
	if (strlen(text) > TEXT_MAX)
		abort();
	return 0;
}

static void fuzz_run(struct span run, bool allowed)
{
	static const char *args[] = { "sh", "-c", "true", NULL }, *env[] = { "A=b", "PATH=/bin", NULL };
	static const char *names[] = { "A", "B", NULL };
	static struct manifest manifest;
	struct failure failure = { 0 };
	struct settings settings;

	manifest.hostname = "";
	manifest.process.args = (struct strings){ args, 3 };
	manifest.process.env = (struct strings){ env, 2 };
	manifest.overrides.env = (struct strings){ names, allowed ? 2 : 0 };
	manifest.overrides.args = manifest.overrides.etc = manifest.overrides.hostname = allowed;
	if (settings_apply(&settings, &manifest, run, check_note, NULL, &failure) < 0) {
		if (failure.reason != FAIL_SETTINGS)
			abort();
		return;
	}
	/* The host changes nothing that the manifest does not let it. */
	if (!allowed && (settings.args != args || strcmp(settings.hostname, "krunpy") != 0 || settings.env[2] != NULL ||
			 settings.etc[0] != NULL || settings.etc[1] != NULL || settings.etc[2] != NULL))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t plaintext[1 << 17];
	static const uint8_t server_key[32] = { 1 };
	static const struct hpke_keys keys = { .secret = { 9 } };
	static const struct binding binding = { .nonce = { 1 } };
	struct span bytes = { data, size }, key;
	struct failure failure = { 0 };
	char text[TEXT_MAX + 1];
	size_t length;

	if (size == 0)
		return 0;
	fuzz_run((struct span){ data + 1, size - 1 }, data[0] & 1);
	key = release_disk_key(bytes, true);
	if (key.at != NULL && (key.length != 64 || key.at < data || key.at + 64 > data + size))
		abort();
	if (release_disk_key(bytes, false).at != NULL && size > 0)
		abort();
	(void)evidence_is_whole(bytes);
	text_clean(text, sizeof(text), data, size);
	if (strlen(text) > TEXT_MAX || strpbrk(text, "\n\r\t\033") != NULL)
		abort();
	if (size < sizeof(plaintext) && release_open(&binding, server_key, &keys, bytes, plaintext, &length, &failure) == 0)
		abort();
	return 0;
}
