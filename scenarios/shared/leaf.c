// SPDX-License-Identifier: Apache-2.0 OR MIT
/* What a vfork child becomes. */
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	printf("leaf %s: process %d of %d\n", argc > 1 ? argv[1] : "", getpid(), getppid());
	return 5;
}
