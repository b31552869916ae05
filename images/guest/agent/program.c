#include "program.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* Home directory in a line name:password:uid:gid:comment:home:shell, or NULL. The line is cut up. */
static const char *home_of(char *line, uint32_t uid)
{
	char *fields[7], *end;
	size_t count = 0;

	while (count < COUNT_OF(fields) && (fields[count] = strsep(&line, ":")) != NULL)
		count++;
	if (count < 6 || !isdigit((unsigned char)fields[2][0]) || strtoul(fields[2], &end, 10) != uid || *end != '\0')
		return NULL;
	return fields[5][0] == '/' ? fields[5] : NULL;
}

void program_set_home(struct settings *settings, uint32_t uid)
{
	static char passwd[65536], variable[4200];
	const char *home = NULL;
	char *rest = passwd, *line;
	int fd = open("/etc/passwd", O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	ssize_t length = -1;

	if (settings_variable(settings, "HOME") == NULL) {
		if (fd >= 0)
			length = read(fd, passwd, sizeof(passwd) - 1);
		passwd[length < 0 ? 0 : length] = '\0';
		while (home == NULL && (line = strsep(&rest, "\n")) != NULL)
			home = home_of(line, uid);
		if (home == NULL || strlen(home) > 4096)
			home = "/";
		(void)snprintf(variable, sizeof(variable), "HOME=%s", home);
		(void)settings_add(settings, variable);
	}
	if (fd >= 0)
		(void)close(fd);
}

static void execute(const char *path, const struct settings *settings)
{
	(void)execve(path, (char *const *)(uintptr_t)settings->args, (char *const *)(uintptr_t)settings->env);
}

/* As execvp, but the workload's PATH, and no shell for a file without a format. Sets errno. */
static void search(const char *name, const struct settings *settings)
{
	const char *at = settings_variable(settings, "PATH");
	int error = ENOENT;

	if (at == NULL)
		at = DEFAULT_PATH;
	for (;;) {
		size_t length = strcspn(at, ":");
		char path[4096 + 256];
		int shown = snprintf(path, sizeof(path), "%.*s%s%s", (int)(length > 4096 ? 4096 : length), at,
				     length == 0 ? "" : "/", name);

		if (shown > 0 && (size_t)shown < sizeof(path)) {
			execute(path, settings);
			if (errno != ENOENT && errno != ENOTDIR && errno != EACCES)
				return;
			if (errno == EACCES)
				error = EACCES;
		}
		if (at[length] == '\0')
			break;
		at += length + 1;
	}
	errno = error;
}

int program_execute(const struct settings *settings)
{
	const char *name = settings->args[0], *why;
	char line[400], shown[257];
	ssize_t written;
	int error;

	errno = ENOENT;
	if (strchr(name, '/') != NULL)
		execute(name, settings);
	else if (name[0] != '\0')
		search(name, settings);
	error = errno;
	why = error == ENOENT || error == ENOTDIR ? "no such file or directory" :
	      error == EACCES			  ? "permission denied" :
	      error == ENOEXEC			  ? "exec format error" :
						    strerror(error);
	text_clean(shown, sizeof(shown), (const uint8_t *)name, strlen(name));
	(void)snprintf(line, sizeof(line), "krunpy: cannot run \"%s\": %s\n", shown, why);
	written = write(STDERR_FILENO, line, strlen(line));
	(void)written;
	return error == ENOENT || error == ENOTDIR ? 127 : 126;
}
