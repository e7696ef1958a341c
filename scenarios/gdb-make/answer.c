#include <stdio.h>

int main(void)
{
	puts("42");
	return 0;
}
// SPDX-License-Identifier: GPL-2.0-only
