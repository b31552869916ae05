#include "fail.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

__attribute__((format(printf, 4, 0))) static int
note(struct failure *failure, enum reason reason, int error, const char *format, va_list values)
{
	char line[TEXT_MAX + 1];
	int length;

	if (failure->reason != 0)
		return -1;
	length = vsnprintf(line, sizeof(line), format, values);
	if (length < 0)
		length = 0;
	if (length > TEXT_MAX)
		length = TEXT_MAX;
	if (error != 0)
		(void)snprintf(line + length, sizeof(line) - (size_t)length, ": %s", strerror(error));
	failure->reason = (uint16_t)reason;
	text_clean(failure->text, sizeof(failure->text), (const uint8_t *)line, strlen(line));
	return -1;
}

int fail(struct failure *failure, enum reason reason, const char *format, ...)
{
	va_list values;

	va_start(values, format);
	(void)note(failure, reason, 0, format, values);
	va_end(values);
	return -1;
}

int fail_errno(struct failure *failure, enum reason reason, const char *format, ...)
{
	int error = errno;
	va_list values;

	va_start(values, format);
	(void)note(failure, reason, error, format, values);
	va_end(values);
	return -1;
}

size_t utf8_length(const uint8_t *at, size_t left)
{
	/* Unicode 15, table 3-7: no overlong form, no surrogate, nothing above U+10FFFF. */
	uint8_t low = 0x80, high = 0xbf;
	size_t length;

	if (left == 0)
		return 0;
	if (at[0] < 0x80)
		return 1;
	if (at[0] < 0xc2 || at[0] > 0xf4)
		return 0;
	length = at[0] < 0xe0 ? 2 : at[0] < 0xf0 ? 3 : 4;
	if (left < length)
		return 0;
	if (at[0] == 0xe0)
		low = 0xa0;
	if (at[0] == 0xed)
		high = 0x9f;
	if (at[0] == 0xf0)
		low = 0x90;
	if (at[0] == 0xf4)
		high = 0x8f;
	if (at[1] < low || at[1] > high)
		return 0;
	for (size_t i = 2; i < length; i++)
		if (at[i] < 0x80 || at[i] > 0xbf)
			return 0;
	return length;
}

void text_clean(char *to, size_t room, const uint8_t *from, size_t length)
{
	size_t used = 0;

	for (size_t i = 0; i < length;) {
		size_t step = utf8_length(from + i, length - i);

		if (used + (step == 0 ? 1 : step) >= room)
			break;
		if (step == 0 || from[i] < 0x20 || from[i] == 0x7f) {
			to[used++] = '?';
			i += 1;
			continue;
		}
		memcpy(to + used, from + i, step);
		used += step;
		i += step;
	}
	to[used] = '\0';
}
