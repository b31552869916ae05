/*
 * The agent's volumes as a program, for test_volumes.py.
 *
 * paths: stdin is lists of paths, each path with a NUL after it, each list with another one; a line for each list.
 * read TEXT; target ROOT PATH; settings: stdin as `agent-tool run` has it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "settings.h"

static char input[1 << 20];
static size_t input_length;

static int paths(void)
{
	const char *items[64];
	struct strings list = { items, 0 };

	for (size_t at = 0; at < input_length; at += strlen(input + at) + 1) {
		if (input[at] != '\0') {
			items[list.count++] = input + at;
			continue;
		}
		const char *error = volume_paths_error(&list);

		puts(error == NULL ? "fine" : error);
		list.count = 0;
	}
	return 0;
}

static void print_volume(const struct volume *volume)
{
	printf("%s %s %s\n", volume->tag, volume->read_only ? "ro" : "rw", volume->path);
}

static int read_one(const char *text)
{
	struct volume volume = { 0 };

	if (!volume_read(&volume, text))
		return 1;
	print_volume(&volume);
	return 0;
}

static int target(const char *root, const char *path)
{
	int fd = volume_open_target(open(root, O_PATH | O_DIRECTORY | O_CLOEXEC), path);
	char link[64], name[4096];
	ssize_t length;

	if (fd < 0) {
		puts(strerrorname_np(errno));
		return 1;
	}
	(void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, name, sizeof(name) - 1);
	printf("%.*s\n", (int)length, name);
	return 0;
}

static int print_note(void *context, const char *text)
{
	(void)context;
	printf("note %s\n", text);
	return 0;
}

static int settings_of(void)
{
	static struct manifest manifest;
	static struct settings settings;
	struct failure failure = { 0 };
	size_t length = input_length < 4 ? 0 : get_u32((const uint8_t *)input);
	const uint8_t *at = (const uint8_t *)input + 4;

	if (input_length < 4 + length || manifest_parse(&manifest, at, length, &failure) < 0 ||
	    settings_apply(&settings, &manifest, (struct span){ at + length, input_length - 4 - length }, print_note, NULL,
			   &failure) < 0) {
		printf("%u %s\n", failure.reason, failure.text);
		return 1;
	}
	for (size_t i = 0; i < settings.volume_count; i++)
		print_volume(&settings.volumes[i]);
	return 0;
}

int main(int count, char **arguments)
{
	ssize_t part;

	if (count == 3 && strcmp(arguments[1], "read") == 0)
		return read_one(arguments[2]);
	if (count == 4 && strcmp(arguments[1], "target") == 0)
		return target(arguments[2], arguments[3]);
	while ((part = read(0, input + input_length, sizeof(input) - input_length)) > 0)
		input_length += (size_t)part;
	if (count == 2 && strcmp(arguments[1], "paths") == 0)
		return paths();
	return count == 2 && strcmp(arguments[1], "settings") == 0 ? settings_of() : 2;
}
