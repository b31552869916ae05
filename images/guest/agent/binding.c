#include "binding.h"

#include <sodium.h>
#include <string.h>

#define SIGNATURE 64u

static const char report_label[] = "krunpy report_data v1";
static const char release_label[] = "krunpy release v1";
static const char signature_label[] = "krunpy release signature v1";

static uint8_t *put_field(uint8_t *to, const void *from, size_t length)
{
	put_u32(to, (uint32_t)length);
	memcpy(to + 4, from, length);
	return to + 4 + length;
}

/* lp(label) lp(nonce) lp(guest key) lp(manifest hash); returns the length in bytes. */
static size_t put_transcript(uint8_t *to, const char *label, const struct binding *binding)
{
	uint8_t *end = put_field(to, label, strlen(label));

	end = put_field(end, binding->nonce, sizeof(binding->nonce));
	end = put_field(end, binding->guest_key, sizeof(binding->guest_key));
	end = put_field(end, binding->manifest_hash, sizeof(binding->manifest_hash));
	return (size_t)(end - to);
}

void binding_report_data(uint8_t to[REPORT_DATA], const struct binding *binding)
{
	uint8_t fields[256];

	crypto_hash_sha512(to, fields, put_transcript(fields, report_label, binding));
}

void binding_transcript(uint8_t to[TRANSCRIPT], const struct binding *binding)
{
	uint8_t fields[256];

	crypto_hash_sha256(to, fields, put_transcript(fields, release_label, binding));
}

int release_open(const struct binding *binding, const uint8_t server_key[32], const struct hpke_keys *keys,
		 struct span release, uint8_t *plaintext, size_t *length, struct failure *failure)
{
	static uint8_t signed_bytes[sizeof(signature_label) - 1 + TRANSCRIPT + 65536];
	const size_t head = sizeof(signature_label) - 1 + TRANSCRIPT;
	uint8_t transcript[TRANSCRIPT];
	struct span sealed, info = { transcript, sizeof(transcript) }, empty = { release.at, 0 };

	if (release.length < SIGNATURE + HPKE_KEY + HPKE_TAG || release.length > sizeof(signed_bytes) - head)
		return fail(failure, FAIL_SEAL, "the release is %zu bytes long", release.length);
	sealed = (struct span){ release.at + SIGNATURE, release.length - SIGNATURE };
	binding_transcript(transcript, binding);
	memcpy(signed_bytes, signature_label, sizeof(signature_label) - 1);
	memcpy(signed_bytes + sizeof(signature_label) - 1, transcript, sizeof(transcript));
	memcpy(signed_bytes + head, sealed.at, sealed.length);
	if (crypto_sign_verify_detached(release.at, signed_bytes, head + sealed.length, server_key) != 0)
		return fail(failure, FAIL_SIGNATURE, "the release is not signed by the server that the manifest names");
	*length = sealed.length - HPKE_KEY - HPKE_TAG;
	if (hpke_open(keys, sealed.at, info, empty,
		      (struct span){ sealed.at + HPKE_KEY, sealed.length - HPKE_KEY }, plaintext) < 0)
		return fail(failure, FAIL_SEAL, "the release was not sealed for this guest and this session");
	return 0;
}
