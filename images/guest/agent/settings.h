/* Host settings (RUN): what the host asks for, and what of it the manifest allows. */
#ifndef KRUNPY_SETTINGS_H
#define KRUNPY_SETTINGS_H

#include "volumes.h"

#define ETC_FILES 3

/* What the workload is started with: C strings that live in static memory, lists with a NULL at the end. */
struct settings {
	const char **args;
	const char **env;
	char hostname[65];
	const char *etc[ETC_FILES]; /* contents from the host, NULL for none; their paths are in etc_paths */
	struct volume volumes[VOLUMES_MAX]; /* of the manifest's, those that the host has */
	size_t volume_count;
	bool stdin_empty;
};

extern const char *const etc_paths[ETC_FILES];

/* Called with one line for every host setting that is refused. */
typedef int settings_note(void *context, const char *text);

/*
 * Put the host's items and the manifest together. A refused setting is a note, and changes nothing.
 *
 * Fails (host settings) if the items are malformed; returns -1 if a note could not be delivered.
 */
int settings_apply(struct settings *settings, const struct manifest *manifest, struct span run,
		   settings_note *note, void *context, struct failure *failure);

/* Value of a variable, or NULL. */
const char *settings_variable(const struct settings *settings, const char *name);

/* Add a variable at the end; false if there is no room. `text` must live on. */
bool settings_add(struct settings *settings, const char *text);

#endif
