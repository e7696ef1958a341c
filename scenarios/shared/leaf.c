// SPDX-License-Identifier: Apache-2.0 OR MIT
/* The program that a vfork child executes. */
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	printf("leaf %s: process %d of %d\n", argc > 1 ? argv[1] : "", getpid(), getppid());
	return 5;
}
