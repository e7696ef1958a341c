// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Draws a nonce, counts to ten with a system call a step, prints the nonce. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(void)
{
	uint64_t nonce;
	FILE *file;

	if (getrandom(&nonce, sizeof(nonce), 0) != sizeof(nonce)) {
		perror("getrandom");
		return 1;
	}
	file = fopen("nonce", "w");
	if (!file || fprintf(file, "%016" PRIx64 "\n", nonce) < 0 || fclose(file)) {
		perror("nonce");
		return 1;
	}
	printf("hello from process %d\n", getpid());
	for (int step = 1; step <= 10; step++)
		printf("step %d in process %ld\n", step, syscall(SYS_getpid));
	printf("nonce %016" PRIx64 "\n", nonce);
	return 0;
}
