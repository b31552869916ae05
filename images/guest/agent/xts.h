/* AES-256-XTS decryption with the processor's AES instructions: constant time, no tables. */
#ifndef KRUNPY_XTS_H
#define KRUNPY_XTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define XTS_KEY 64u /* bytes: the key of the data, then that of the tweak */
#define XTS_ROUND_KEYS 15u

struct xts {
	uint8_t data[XTS_ROUND_KEYS][16], tweak[XTS_ROUND_KEYS][16];
};

/* Has the processor AES instructions? Nothing below may be called without. */
bool xts_usable(void);

void xts_begin(struct xts *xts, const uint8_t key[XTS_KEY]);

/*
 * Decrypt one sector in place. length: a multiple of 16. number: of the sector, as dm-crypt's plain64 counts.
 *
 * Source: IEEE 1619-2007, section 5.4; FIPS 197.
 */
void xts_decrypt(const struct xts *xts, uint64_t number, uint8_t *bytes, size_t length);

#endif
