/*
 * A reader for the one byte form of docs/protocol.md 1. It checks while it reads: whoever calls says what must come
 * next, so that blanks, another key order, unknown and duplicate keys are all the same error.
 *
 * The first error sticks; after it every function does nothing and returns 0, "" or false.
 */
#ifndef KRUNPY_JSON_H
#define KRUNPY_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json {
	const uint8_t *start, *at, *end;
	char *arena; /* decoded strings; never needs more bytes than the document has */
	size_t arena_left;
	bool first; /* no comma before the next member */
	const char *error; /* NULL: none so far */
};

void json_start(struct json *json, const uint8_t *at, size_t length, char *arena, size_t arena_length);
void json_error(struct json *json, const char *error);
size_t json_offset(const struct json *json);

void json_open(struct json *json, char bracket);
void json_close(struct json *json, char bracket);
/* Is there another element in this array? Takes the comma, or the closing bracket. */
bool json_more(struct json *json);
void json_key(struct json *json, const char *key);
uint64_t json_integer(struct json *json, uint64_t most);
bool json_bool(struct json *json);
/* A string without NUL, as a C string that lives as long as the arena. */
const char *json_string(struct json *json);
/* 2 * size lower-case hex digits. */
void json_hex(struct json *json, uint8_t *to, size_t size);
/* Nothing may follow the document. */
void json_finish(struct json *json);

#endif
