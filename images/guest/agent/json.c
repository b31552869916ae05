#include "json.h"

#include <string.h>

#include "fail.h"

void json_start(struct json *json, const uint8_t *at, size_t length, char *arena, size_t arena_length)
{
	*json = (struct json){ .start = at, .at = at, .end = at + length, .arena = arena,
			       .arena_left = arena_length, .first = true };
}

void json_error(struct json *json, const char *error)
{
	if (json->error == NULL)
		json->error = error;
}

size_t json_offset(const struct json *json)
{
	return (size_t)(json->at - json->start);
}

/* The next byte, or -1 at the end and after an error. */
static int peek(const struct json *json)
{
	return json->error != NULL || json->at == json->end ? -1 : *json->at;
}

static void take(struct json *json, char wanted, const char *error)
{
	if (peek(json) != (unsigned char)wanted) {
		json_error(json, error);
		return;
	}
	json->at++;
}

static void literal(struct json *json, const char *text, const char *error)
{
	for (; *text != '\0'; text++)
		take(json, *text, error);
}

static void comma(struct json *json)
{
	if (!json->first)
		take(json, ',', "wanted a comma");
	json->first = false;
}

void json_open(struct json *json, char bracket)
{
	take(json, bracket, bracket == '{' ? "wanted an object" : "wanted an array");
	json->first = true;
}

void json_close(struct json *json, char bracket)
{
	take(json, bracket, "unknown key, or one that is out of order");
	json->first = false;
}

bool json_more(struct json *json)
{
	if (peek(json) == ']') {
		json->at++;
		json->first = false;
		return false;
	}
	comma(json);
	return json->error == NULL;
}

void json_key(struct json *json, const char *key)
{
	comma(json);
	take(json, '"', "wanted a key");
	literal(json, key, "a key is missing, unknown, or out of order");
	literal(json, "\":", "a key is missing, unknown, or out of order");
}

uint64_t json_integer(struct json *json, uint64_t most)
{
	uint64_t value = 0;
	int next = peek(json);

	if (next < '0' || next > '9') {
		json_error(json, "wanted a number of 0 or more");
		return 0;
	}
	if (next == '0' && json->end - json->at > 1 && json->at[1] >= '0' && json->at[1] <= '9')
		json_error(json, "a number starts with 0");
	for (; (next = peek(json)) >= '0' && next <= '9'; json->at++) {
		uint64_t digit = (uint64_t)(next - '0');

		if (value > (most - digit) / 10 || digit > most) {
			json_error(json, "a number is too large");
			return 0;
		}
		value = value * 10 + digit;
	}
	return json->error != NULL ? 0 : value;
}

bool json_bool(struct json *json)
{
	if (peek(json) == 't') {
		literal(json, "true", "wanted true or false");
		return json->error == NULL;
	}
	literal(json, "false", "wanted true or false");
	return false;
}

static int hex_digit(uint8_t byte)
{
	if (byte >= '0' && byte <= '9')
		return byte - '0';
	return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

/* \u00xx of a control character that has no short form. */
static char read_unicode(struct json *json)
{
	int high, low;
	char value;

	if (json->end - json->at < 4 || memcmp(json->at, "00", 2) != 0) {
		json_error(json, "an escape that is not needed");
		return 0;
	}
	high = hex_digit(json->at[2]);
	low = hex_digit(json->at[3]);
	if (high < 0 || high > 1 || low < 0) {
		json_error(json, "an escape that is not needed");
		return 0;
	}
	value = (char)(high * 16 + low);
	if (value == 0)
		json_error(json, "a string holds NUL");
	else if (strchr("\b\f\n\r\t", value) != NULL)
		json_error(json, "a long escape where a short one exists");
	json->at += 4;
	return value;
}

static char read_escape(struct json *json)
{
	static const char from[] = "\"\\bfnrt", to[] = "\"\\\b\f\n\r\t";
	int next = peek(json);
	const char *found;

	if (next < 0) {
		json_error(json, "a string has no end");
		return 0;
	}
	json->at++;
	if (next == 'u')
		return read_unicode(json);
	found = next == 0 ? NULL : strchr(from, next);
	if (found == NULL) {
		json_error(json, "an unknown escape");
		return 0;
	}
	return to[found - from];
}

static void emit(struct json *json, const void *bytes, size_t count)
{
	if (json->arena_left < count) {
		json_error(json, "the strings are too long");
		return;
	}
	memcpy(json->arena, bytes, count);
	json->arena += count;
	json->arena_left -= count;
}

const char *json_string(struct json *json)
{
	const char *text = json->arena;

	take(json, '"', "wanted a string");
	while (json->error == NULL) {
		int next = peek(json);
		size_t length;

		if (next < 0) {
			json_error(json, "a string has no end");
		} else if (next == '"') {
			json->at++;
			emit(json, "", 1);
			return json->error == NULL ? text : "";
		} else if (next == '\\') {
			char value;

			json->at++;
			value = read_escape(json);
			emit(json, &value, 1);
		} else if (next < 0x20) {
			json_error(json, "a control character in a string");
		} else if ((length = utf8_length(json->at, (size_t)(json->end - json->at))) == 0) {
			json_error(json, "a string is not UTF-8");
		} else {
			emit(json, json->at, length);
			json->at += length;
		}
	}
	return "";
}

void json_hex(struct json *json, uint8_t *to, size_t size)
{
	take(json, '"', "wanted hex digits");
	for (size_t i = 0; i < size && json->error == NULL; i++) {
		int high = -1, low = -1;

		if (json->end - json->at >= 2) {
			high = hex_digit(json->at[0]);
			low = hex_digit(json->at[1]);
		}
		if (high < 0 || low < 0) {
			json_error(json, "wanted more lower-case hex digits");
			return;
		}
		to[i] = (uint8_t)(high * 16 + low);
		json->at += 2;
	}
	take(json, '"', "wanted fewer hex digits");
}

void json_finish(struct json *json)
{
	if (json->error == NULL && json->at != json->end)
		json_error(json, "bytes after the document");
}
