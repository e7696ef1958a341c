// SPDX-License-Identifier: Apache-2.0 OR MIT
/* A calculator: a line in, its value out. */
#include <stdio.h>
#include <string.h>

#include "calc.h"

int main(void)
{
	char line[256];
	int errors = 0;

	while (fgets(line, sizeof(line), stdin)) {
		const char *error;
		double value;

		line[strcspn(line, "\n")] = 0;
		error = parse_line(line, &value);
		if (error) {
			printf("%s: %s\n", line, error);
			errors++;
		} else {
			printf("%s: %.10g\n", line, value);
		}
	}
	printf("errors: %d\n", errors);
	return 0;
}
