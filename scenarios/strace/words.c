// SPDX-License-Identifier: GPL-2.0-only
#include <stdio.h>

#include "count.h"

/*
 * Keeps the compiler busy for long, so that this file is always the last to be
 * compiled and the children in make's log always have the same order.
 */
#define MIX(n)                                                                 \
	static unsigned int mix##n(unsigned int x)                             \
	{                                                                      \
		for (int i = 0; i < (n % 7); i++)                              \
			x = x * 33 + (x >> 3) + n;                             \
		return x % 5 ? x : x / 3;                                      \
	}
#define MIX10(n)                                                               \
	MIX(n##0) MIX(n##1) MIX(n##2) MIX(n##3) MIX(n##4) MIX(n##5) MIX(n##6)  \
	MIX(n##7) MIX(n##8) MIX(n##9)
#define CALL(n) x = mix##n(x);
#define CALL10(n)                                                              \
	CALL(n##0) CALL(n##1) CALL(n##2) CALL(n##3) CALL(n##4) CALL(n##5)      \
	CALL(n##6) CALL(n##7) CALL(n##8) CALL(n##9)

MIX10(1) MIX10(2) MIX10(3) MIX10(4) MIX10(5) MIX10(6)

static unsigned int mixed(unsigned int x)
{
	CALL10(1) CALL10(2) CALL10(3) CALL10(4) CALL10(5) CALL10(6)
	return x;
}

int main(void)
{
	char line[256];
	int words = 0;

	while (fgets(line, sizeof(line), stdin))
		words += count_words(line);
	printf("%d words, mixed %u\n", words, mixed(words));
	return 0;
}
