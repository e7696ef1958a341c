// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Draws a nonce, counts to ten with a system call at each step, prints the nonce. */
#include <sys/syscall.h>
#include <unistd.h>

#include "workload.h"

int main(void)
{
	nonce_draw();
	printf("hello from process %d\n", getpid());
	for (int step = 1; step <= 10; step++)
		printf("step %d in process %ld\n", step, syscall(SYS_getpid));
	nonce_print();
	return 0;
}
