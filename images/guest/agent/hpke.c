#include "hpke.h"

#include <sodium.h>
#include <string.h>

#define HASH 32u /* bytes of SHA-256 */

/* RFC 9180, 4.1 and 5.1: "KEM" with the KEM's number; "HPKE" with KEM, KDF and AEAD. */
static const uint8_t kem_suite[] = { 'K', 'E', 'M', 0x00, 0x20 };
static const uint8_t hpke_suite[] = { 'H', 'P', 'K', 'E', 0x00, 0x20, 0x00, 0x01, 0x00, 0x03 };
static const struct span kem = { kem_suite, sizeof(kem_suite) };
static const struct span hpke = { hpke_suite, sizeof(hpke_suite) };
static const struct span nothing = { (const uint8_t *)"", 0 };

static void add(crypto_auth_hmacsha256_state *state, struct span bytes)
{
	crypto_auth_hmacsha256_update(state, bytes.at, bytes.length);
}

static void add_label(crypto_auth_hmacsha256_state *state, struct span suite, const char *label)
{
	add(state, (struct span){ (const uint8_t *)"HPKE-v1", 7 });
	add(state, suite);
	add(state, (struct span){ (const uint8_t *)label, strlen(label) });
}

/* LabeledExtract, RFC 9180 4: HKDF-Extract(salt, "HPKE-v1" suite label ikm). */
static void extract(uint8_t to[HASH], struct span suite, struct span salt, const char *label, struct span ikm)
{
	crypto_auth_hmacsha256_state state;

	crypto_auth_hmacsha256_init(&state, salt.at, salt.length);
	add_label(&state, suite, label);
	add(&state, ikm);
	crypto_auth_hmacsha256_final(&state, to);
	sodium_memzero(&state, sizeof(state));
}

/* LabeledExpand, RFC 9180 4, of at most 32 bytes: one block of HKDF-Expand. */
static void expand(uint8_t *to, size_t length, struct span suite, const uint8_t prk[HASH], const char *label,
		   struct span info)
{
	crypto_auth_hmacsha256_state state;
	uint8_t block[HASH], number[2] = { 0, (uint8_t)length }, counter = 1;

	crypto_auth_hmacsha256_init(&state, prk, HASH);
	add(&state, (struct span){ number, sizeof(number) });
	add_label(&state, suite, label);
	add(&state, info);
	add(&state, (struct span){ &counter, 1 });
	crypto_auth_hmacsha256_final(&state, block);
	memcpy(to, block, length);
	sodium_memzero(block, sizeof(block));
	sodium_memzero(&state, sizeof(state));
}

/* Decap, RFC 9180 4.1. */
static int decapsulate(uint8_t shared[HASH], const struct hpke_keys *keys, const uint8_t enc[HPKE_KEY])
{
	uint8_t dh[crypto_scalarmult_BYTES], prk[HASH], context[2 * HPKE_KEY];

	if (crypto_scalarmult(dh, keys->secret, enc) != 0) /* all zero: RFC 9180 7.1.4 */
		return -1;
	memcpy(context, enc, HPKE_KEY);
	memcpy(context + HPKE_KEY, keys->public, HPKE_KEY);
	extract(prk, kem, nothing, "eae_prk", (struct span){ dh, sizeof(dh) });
	expand(shared, HASH, kem, prk, "shared_secret", (struct span){ context, sizeof(context) });
	sodium_memzero(dh, sizeof(dh));
	sodium_memzero(prk, sizeof(prk));
	return 0;
}

/* KeySchedule, RFC 9180 5.1, mode_base. */
static void schedule(uint8_t key[32], uint8_t nonce[12], const uint8_t shared[HASH], struct span info)
{
	uint8_t context[1 + 2 * HASH] = { 0 }, secret[HASH];
	struct span whole = { context, sizeof(context) };

	extract(context + 1, hpke, nothing, "psk_id_hash", nothing);
	extract(context + 1 + HASH, hpke, nothing, "info_hash", info);
	extract(secret, hpke, (struct span){ shared, HASH }, "secret", nothing);
	expand(key, 32, hpke, secret, "key", whole);
	expand(nonce, 12, hpke, secret, "base_nonce", whole);
	sodium_memzero(secret, sizeof(secret));
}

int hpke_open(const struct hpke_keys *keys, const uint8_t enc[HPKE_KEY], struct span info, struct span aad,
	      struct span ciphertext, uint8_t *plaintext)
{
	uint8_t shared[HASH], key[crypto_aead_chacha20poly1305_ietf_KEYBYTES];
	uint8_t nonce[crypto_aead_chacha20poly1305_ietf_NPUBBYTES];
	int result;

	if (ciphertext.length < HPKE_TAG || decapsulate(shared, keys, enc) < 0)
		return -1;
	schedule(key, nonce, shared, info);
	result = crypto_aead_chacha20poly1305_ietf_decrypt(plaintext, NULL, NULL, ciphertext.at, ciphertext.length,
							   aad.at, aad.length, nonce, key);
	sodium_memzero(shared, sizeof(shared));
	sodium_memzero(key, sizeof(key));
	return result == 0 ? 0 : -1;
}
