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

#include "image.h"

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
			seal(&record, payload, number);
			forged = 1;
		}
		fwrite(&record, sizeof(record), 1, out);
		fwrite(payload, 1, record.len, out);
		free(payload);
	}
	return fclose(out) || !forged;
}
