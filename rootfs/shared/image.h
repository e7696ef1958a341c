/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Records of an image and their checksums, for programs that forge images. */
#ifndef IMAGE_H
#define IMAGE_H

#include <stdint.h>
#include <string.h>

/* as struct ckpt_rec */
struct record {
	uint32_t type, objref;
	uint64_t len, sum;
};

#define P1 11400714785074694791ULL
#define P2 14029467366897019727ULL
#define P3 1609587929392839161ULL
#define P4 9650029242287828579ULL
#define P5 2870177450012600261ULL

static inline uint64_t rotl(uint64_t x, int r)
{
	return x << r | x >> (64 - r);
}

static inline uint64_t word(const uint8_t *p)
{
	uint64_t w;

	memcpy(&w, p, 8);
	return w;
}

static inline uint64_t mix(uint64_t acc, uint64_t in)
{
	return rotl(acc + in * P2, 31) * P1;
}

static inline uint64_t xxh64(const uint8_t *p, size_t len, uint64_t seed)
{
	const uint8_t *end = p + len;
	uint64_t h = seed + P5, v[4] = { seed + P1 + P2, seed + P2, seed, seed - P1 };
	uint32_t half;
	int i;

	if (len >= 32) {
		for (; end - p >= 32; p += 32)
			for (i = 0; i < 4; i++)
				v[i] = mix(v[i], word(p + 8 * i));
		h = rotl(v[0], 1) + rotl(v[1], 7) + rotl(v[2], 12) + rotl(v[3], 18);
		for (i = 0; i < 4; i++)
			h = (h ^ mix(0, v[i])) * P1 + P4;
	}
	h += len;
	for (; end - p >= 8; p += 8)
		h = rotl(h ^ mix(0, word(p)), 27) * P1 + P4;
	if (end - p >= 4) {
		memcpy(&half, p, 4);
		h = rotl(h ^ half * P1, 23) * P2 + P3;
		p += 4;
	}
	for (; p < end; p++)
		h = rotl(h ^ *p * P5, 11) * P1;
	h = (h ^ h >> 33) * P2;
	h = (h ^ h >> 29) * P3;
	return h ^ h >> 32;
}

/* Sets the checksum of a record, whose index in the image is @number. */
static inline void seal(struct record *record, const uint8_t *payload, uint64_t number)
{
	record->sum = xxh64(payload, record->len, xxh64((const void *)record, 16, number));
}

#endif
