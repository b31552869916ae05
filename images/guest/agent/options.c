#include "options.h"

#include <stdbool.h>
#include <string.h>
#include <sys/mount.h>

#include "bytes.h"

static const struct {
	const char *name;
	unsigned long set, clear;
} words[] = {
	{ "ro", MS_RDONLY, 0 }, { "rw", 0, MS_RDONLY },
	{ "nosuid", MS_NOSUID, 0 }, { "suid", 0, MS_NOSUID },
	{ "nodev", MS_NODEV, 0 }, { "dev", 0, MS_NODEV },
	{ "noexec", MS_NOEXEC, 0 }, { "exec", 0, MS_NOEXEC },
	{ "noatime", MS_NOATIME, 0 }, { "atime", 0, MS_NOATIME },
	{ "nodiratime", MS_NODIRATIME, 0 }, { "diratime", 0, MS_NODIRATIME },
	{ "relatime", MS_RELATIME, 0 }, { "strictatime", MS_STRICTATIME, 0 },
	{ "sync", MS_SYNCHRONOUS, 0 }, { "async", 0, MS_SYNCHRONOUS },
	/* Propagation says nothing in a namespace of one's own. */
	{ "private", 0, 0 }, { "rprivate", 0, 0 }, { "slave", 0, 0 }, { "rslave", 0, 0 }, { "defaults", 0, 0 },
};

static const char *const keys[] = { "mode=", "size=", "uid=", "gid=", "nr_inodes=", "nr_blocks=", "huge=" };

static bool take_word(struct tmpfs_options *options, const char *word)
{
	for (size_t i = 0; i < COUNT_OF(words); i++) {
		if (strcmp(word, words[i].name) != 0)
			continue;
		options->flags = (options->flags & ~words[i].clear) | words[i].set;
		return true;
	}
	return false;
}

static bool take_data(struct tmpfs_options *options, const char *word)
{
	for (size_t i = 0; i < COUNT_OF(keys); i++) {
		if (strncmp(word, keys[i], strlen(keys[i])) != 0)
			continue;
		if (options->data[0] != '\0')
			strcat(options->data, ",");
		strcat(options->data, word); /* not longer than the text it comes from */
		return true;
	}
	return false;
}

const char *options_parse(struct tmpfs_options *options, const char *text)
{
	static char copy[OPTIONS_MAX];
	char *rest = copy, *word;

	memset(options, 0, sizeof(*options));
	if (strlen(text) >= sizeof(copy))
		return "(too long)";
	strcpy(copy, text);
	while ((word = strsep(&rest, ",")) != NULL)
		if (word[0] != '\0' && !take_word(options, word) && !take_data(options, word))
			return word;
	return NULL;
}
