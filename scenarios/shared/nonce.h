/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A random number that is drawn before the checkpoint and printed at the end. A run
 * that was silently started again would print a different number than it has recorded.
 */
#ifndef NONCE_H
#define NONCE_H

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

static uint64_t nonce;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void nonce_draw(void)
{
	FILE *file;

	if (getrandom(&nonce, sizeof(nonce), 0) != sizeof(nonce))
		die("getrandom");
	file = fopen("nonce", "w");
	if (!file || fprintf(file, "%016" PRIx64 "\n", nonce) < 0 || fclose(file))
		die("nonce");
}

static void nonce_print(void)
{
	printf("nonce %016" PRIx64 "\n", nonce);
}

#endif
