/* What is signed and sealed: docs/protocol.md 4. */
#ifndef KRUNPY_BINDING_H
#define KRUNPY_BINDING_H

#include "bytes.h"
#include "fail.h"
#include "hpke.h"

#define NONCE 32u
#define REPORT_DATA 64u
#define TRANSCRIPT 32u

/* The three values that tie a session together. */
struct binding {
	uint8_t nonce[NONCE];
	uint8_t guest_key[HPKE_KEY];
	uint8_t manifest_hash[32];
};

void binding_report_data(uint8_t to[REPORT_DATA], const struct binding *binding);
void binding_transcript(uint8_t to[TRANSCRIPT], const struct binding *binding);

/*
 * Open the payload of a RELEASE frame: the signature first, then the seal.
 *
 * `plaintext` has room for release.length bytes; *length is set on success.
 * Fails with signature or seal. The caller zeroes the plaintext after use.
 */
int release_open(const struct binding *binding, const uint8_t server_key[32], const struct hpke_keys *keys,
		 struct span release, uint8_t *plaintext, size_t *length, struct failure *failure);

#endif
