// SPDX-License-Identifier: GPL-2.0-only
#include <ctype.h>

#include "count.h"

int count_words(const char *line)
{
	int words = 0;

	while (*line) {
		while (isspace((unsigned char)*line))
			line++;
		if (*line)
			words++;
		while (*line && !isspace((unsigned char)*line))
			line++;
	}
	return words;
}
