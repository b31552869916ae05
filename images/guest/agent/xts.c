#include "xts.h"

#include <cpuid.h>
#include <immintrin.h>
#include <string.h>

#define ROUNDS 14
#define AES __attribute__((target("aes,sse4.1")))

bool xts_usable(void)
{
	unsigned int eax, ebx, ecx, edx;

	return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_AES) != 0 && (ecx & bit_SSE4_1) != 0;
}

/* The words of a round key, each added to all before it: FIPS 197, figure 11. */
AES static __m128i chain(__m128i words)
{
	words = _mm_xor_si128(words, _mm_slli_si128(words, 4));
	return _mm_xor_si128(words, _mm_slli_si128(words, 8));
}

AES static __m128i next_even(__m128i even, __m128i assisted)
{
	return _mm_xor_si128(chain(even), _mm_shuffle_epi32(assisted, 0xff));
}

AES static __m128i next_odd(__m128i odd, __m128i even)
{
	return _mm_xor_si128(chain(odd), _mm_shuffle_epi32(_mm_aeskeygenassist_si128(even, 0), 0xaa));
}

AES static void expand(__m128i keys[XTS_ROUND_KEYS], const uint8_t key[32])
{
	keys[0] = _mm_loadu_si128((const __m128i *)(const void *)key);
	keys[1] = _mm_loadu_si128((const __m128i *)(const void *)(key + 16));
	/* the round constant is part of the instruction */
#define ROUND(n, constant) \
	keys[n] = next_even(keys[(n) - 2], _mm_aeskeygenassist_si128(keys[(n) - 1], constant))
	ROUND(2, 0x01);
	keys[3] = next_odd(keys[1], keys[2]);
	ROUND(4, 0x02);
	keys[5] = next_odd(keys[3], keys[4]);
	ROUND(6, 0x04);
	keys[7] = next_odd(keys[5], keys[6]);
	ROUND(8, 0x08);
	keys[9] = next_odd(keys[7], keys[8]);
	ROUND(10, 0x10);
	keys[11] = next_odd(keys[9], keys[10]);
	ROUND(12, 0x20);
	keys[13] = next_odd(keys[11], keys[12]);
	ROUND(14, 0x40);
#undef ROUND
}

AES void xts_begin(struct xts *xts, const uint8_t key[XTS_KEY])
{
	__m128i keys[XTS_ROUND_KEYS];

	expand(keys, key);
	/* for the equivalent inverse cipher, FIPS 197 section 5.3.5: in the order of use */
	for (size_t i = 0; i < XTS_ROUND_KEYS; i++) {
		__m128i round = keys[ROUNDS - i];

		if (i != 0 && i != ROUNDS)
			round = _mm_aesimc_si128(round);
		memcpy(xts->data[i], &round, sizeof(round));
	}
	expand(keys, key + 32);
	memcpy(xts->tweak, keys, sizeof(keys));
	explicit_bzero(keys, sizeof(keys));
}

AES static __m128i first_tweak(const struct xts *xts, uint64_t number)
{
	__m128i keys[XTS_ROUND_KEYS], tweak = _mm_set_epi64x(0, (long long)number);

	memcpy(keys, xts->tweak, sizeof(keys));
	tweak = _mm_xor_si128(tweak, keys[0]);
	for (int i = 1; i < ROUNDS; i++)
		tweak = _mm_aesenc_si128(tweak, keys[i]);
	return _mm_aesenclast_si128(tweak, keys[ROUNDS]);
}

/* Multiply by x in GF(2^128), without a branch. */
AES static __m128i next_tweak(__m128i tweak)
{
	__m128i carries = _mm_and_si128(_mm_shuffle_epi32(_mm_srai_epi32(tweak, 31), 0x13),
					_mm_set_epi32(0, 1, 0, 0x87));

	return _mm_xor_si128(_mm_add_epi64(tweak, tweak), carries);
}

AES void xts_decrypt(const struct xts *xts, uint64_t number, uint8_t *bytes, size_t length)
{
	__m128i keys[XTS_ROUND_KEYS], tweak = first_tweak(xts, number);

	memcpy(keys, xts->data, sizeof(keys));
	for (size_t at = 0; at < length; at += 16) {
		__m128i block;

		memcpy(&block, bytes + at, sizeof(block));
		block = _mm_xor_si128(_mm_xor_si128(block, tweak), keys[0]);
		for (int i = 1; i < ROUNDS; i++)
			block = _mm_aesdec_si128(block, keys[i]);
		block = _mm_xor_si128(_mm_aesdeclast_si128(block, keys[ROUNDS]), tweak);
		memcpy(bytes + at, &block, sizeof(block));
		tweak = next_tweak(tweak);
	}
}
