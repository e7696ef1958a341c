// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Writes a table of primes as a header, slowly enough that make starts its next child before the
 * table is complete.
 */
#include <stdio.h>

#define LIMIT 30000

int main(int argc, char **argv)
{
	FILE *out = argc > 1 ? fopen(argv[1], "w") : stdout;
	int count = 0;

	if (!out) {
		perror(argv[1]);
		return 1;
	}
	fputs("static const int primes[] = {\n", out);
	for (int n = 2; n < LIMIT; n++) {
		int prime = 1;

		for (int d = 2; d < n && prime; d++)
			prime = n % d != 0;
		if (prime)
			fprintf(out, "%d,%s", n, ++count % 10 ? " " : "\n");
	}
	fprintf(out, "};\n#define PRIMES %d\n", count);
	return fclose(out) ? 1 : 0;
}
