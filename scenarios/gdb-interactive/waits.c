/* Waits for a signal that is never sent, until it is interrupted. */
#include <stdio.h>
#include <unistd.h>

static volatile int rounds;

static void wait_once(void)
{
	rounds++;
	puts("waiting");
	pause();
}

int main(void)
{
	for (;;)
		wait_once();
}
// SPDX-License-Identifier: GPL-2.0-only
