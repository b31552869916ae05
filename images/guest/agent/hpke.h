/* RFC 9180, base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305: opening one message. */
#ifndef KRUNPY_HPKE_H
#define KRUNPY_HPKE_H

#include "bytes.h"

#define HPKE_KEY 32u /* bytes: secret key, public key, encapsulated key */
#define HPKE_TAG 16u

struct hpke_keys {
	uint8_t secret[HPKE_KEY];
	uint8_t public[HPKE_KEY];
};

/*
 * Open the first message of a context.
 *
 * `plaintext` has room for ciphertext.length - HPKE_TAG bytes; it is left untouched or zeroed on failure.
 * Returns 0, or -1 if the message was not sealed for these keys, this info and this aad.
 */
int hpke_open(const struct hpke_keys *keys, const uint8_t enc[HPKE_KEY], struct span info, struct span aad,
	      struct span ciphertext, uint8_t *plaintext);

#endif
