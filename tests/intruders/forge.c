// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * forge IMAGE OUT TYPE NTH OFFSET SIZE VALUE: writes an image with one changed number and correct
 * checksums. The record is the NTH (from 0) of its TYPE; if TEXT is in the environment, only
 * records that contain TEXT count.
 *
 * forge IMAGE OUT TYPE NTH text STRING: the same, but replaces TEXT by STRING, of the same length.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct record {
	uint32_t type, objref;
	uint64_t len, sum;
};

#define P1 11400714785074694791ULL
#define P2 14029467366897019727ULL
#define P3 1609587929392839161ULL
#define P4 9650029242287828579ULL
#define P5 2870177450012600261ULL

static uint64_t rotl(uint64_t x, int r)
{
	return x << r | x >> (64 - r);
}

static uint64_t word(const uint8_t *p)
{
	uint64_t w;

	memcpy(&w, p, 8);
	return w;
}

static uint64_t mix(uint64_t acc, uint64_t in)
{
	return rotl(acc + in * P2, 31) * P1;
}

static uint64_t xxh64(const uint8_t *p, size_t len, uint64_t seed)
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

int main(int argc, char **argv)
{
	int string = argc == 7 && !strcmp(argv[5], "text");
	FILE *in = string || argc == 8 ? fopen(argv[1], "r") : NULL;
	FILE *out = in ? fopen(argv[2], "w") : NULL;
	uint32_t type = argc > 3 ? atoi(argv[3]) : 0;
	long nth = argc > 4 ? atol(argv[4]) : 0;
	const char *text = getenv("TEXT");
	struct record record;
	uint64_t number;
	int forged = 0;

	if (!out || (string && (!text || strlen(text) != strlen(argv[6]))))
		return 2;
	for (number = 0; fread(&record, sizeof(record), 1, in) == 1; number++) {
		uint8_t *payload = malloc(record.len + 1), *found = payload;
		size_t at = strtoul(argv[5], NULL, 0), size = strtoul(argv[6], NULL, 0);
		uint64_t value = string ? 0 : strtoull(argv[7], NULL, 0);

		if (!payload || fread(payload, 1, record.len, in) != record.len)
			return 2;
		if (text)
			found = memmem(payload, record.len, text, strlen(text));
		if (record.type == type && found && !nth--) {
			if (string)
				memcpy(found, argv[6], strlen(text));
			else if (at + size > record.len || size > sizeof(value))
				return 2;
			else
				memcpy(payload + at, &value, size);
			record.sum = xxh64(payload, record.len,
					   xxh64((void *)&record, 16, number));
			forged = 1;
		}
		fwrite(&record, sizeof(record), 1, out);
		fwrite(payload, 1, record.len, out);
		free(payload);
	}
	return fclose(out) || !forged;
}
