#include <stdio.h>

static int counts;

static void count(void)
{
	counts++;
}

int main(void)
{
	for (int i = 0; i < 5; i++)
		count();
	printf("%d\n", counts);
	return 0;
}
// SPDX-License-Identifier: GPL-2.0-only
