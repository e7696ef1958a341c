// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Images: their records, and forgeries with correct checksums. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adversary.h"
#include "image.h"

size_t end_of(const struct image *image, int nr)
{
	size_t at = 0;

	while (nr-- > 0 && at + HEAD <= image->size) {
		struct record record;

		memcpy(&record, image->data + at, sizeof(record));
		at += HEAD + record.len;
	}
	return at;
}

int records(const struct image *image)
{
	int nr = 0;

	for (size_t at = 0; at < image->size; nr++)
		at += HEAD + word(image->data + at + 8);
	return nr;
}

/* The third record has the tree: 32 bytes a task, which begin with its pid. */
void read_pids(const struct image *image)
{
	size_t at = end_of(image, 2) + HEAD, end = end_of(image, 3);

	for (nr_pids = 0; at < end && nr_pids < MAX_PIDS; at += 32)
		memcpy(&pids[nr_pids++], image->data + at, sizeof(pid_t));
}

/*
 * A number to write into all records of a type, or into those that contain the
 * forgery's text.
 */
struct change {
	uint32_t type;
	size_t at, size;
	uint64_t value;
};

#define ALL_CAPS	0x1ffffffffffULL

static const struct {
	const char *name;
	const char *text;
	struct change changes[9];
} forgeries[] = {
	/* struct ckpt_mm: dumpable, exe_file (0: see forge()) */
	{ "dumpable", NULL, { { 17, 108, 4, 2 } } },
	{ "executable", NULL, { { 17, 104, 4, 0 } } },
	/* struct ckpt_cred */
	{ "securebits", NULL, { { 9, 32, 4, 0x2a } } },
	{ "identity", NULL, { { 9, 0, 8, 0 }, { 9, 8, 8, 0 }, { 9, 16, 8, 0 }, { 9, 24, 8, 0 } } },
	{ "capabilities", NULL, { { 9, 40, 8, ALL_CAPS }, { 9, 48, 8, ALL_CAPS },
				  { 9, 56, 8, ALL_CAPS }, { 9, 64, 8, ALL_CAPS } } },
	/* struct ckpt_task: policy and priority, nice, restart_kind, no_new_privs */
	{ "realtime", NULL, { { 5, 52, 4, 1 }, { 5, 60, 4, 50 } } },
	{ "nice", NULL, { { 5, 56, 4, 0xffffffec } } },
	{ "alarm", NULL, { { 5, 64, 4, 2 } } },
	{ "privileges", NULL, { { 5, 12, 4, 0 } } },
	/* struct ckpt_rlimit: RLIMIT_CPU, RLIMIT_NOFILE, RLIMIT_RTPRIO */
	{ "raise-limits", NULL, { { 26, 8, 8, ~0ULL }, { 26, 7 * 16 + 8, 8, 1 << 29 },
				  { 26, 14 * 16 + 8, 8, 99 } } },
	/* struct ckpt_vma.advice: CKPT_VMA_UNSEALED */
	{ "unsealed", NULL, { { 18, 40, 4, 0x80 } } },
	/* struct ckpt_file.kind: from CKPT_FILE_PROC to CKPT_FILE_PATH */
	{ "proc-file", "/maps", { { 11, 0, 4, 1 } } },
	/* struct ckpt_ptrace.stop: CKPT_STOP_SECCOMP */
	{ "seccomp-stop", NULL, { { 27, 16, 4, 11 } } },
};

/* Applies a forgery. Returns false when no forgery has this name. */
int forge(struct image *image, const char *name)
{
	size_t i, at = 0, size;
	uint32_t secret = 0;
	uint64_t number;

	for (i = 0; i < sizeof(forgeries) / sizeof(forgeries[0]); i++)
		if (!strcmp(forgeries[i].name, name))
			break;
	if (i == sizeof(forgeries) / sizeof(forgeries[0]))
		return 0;
	for (number = 0; at < image->size; number++, at += size) {
		uint8_t *payload = image->data + at + HEAD;
		const struct change *change;
		struct record record;

		memcpy(&record, image->data + at, sizeof(record));
		size = HEAD + record.len;
		/* a path descriptor of a file that the user may not execute */
		if (record.type == 11 && memmem(payload, record.len, "adversary.secret", 16))
			secret = record.objref;
		if (forgeries[i].text && !memmem(payload, record.len, forgeries[i].text,
						 strlen(forgeries[i].text)))
			continue;
		for (change = forgeries[i].changes; change->size; change++) {
			uint64_t value = change->value;

			if (change->type != record.type ||
			    change->at + change->size > record.len)
				continue;
			if (!strcmp(name, "executable"))
				value = secret;
			memcpy(payload + change->at, &value, change->size);
		}
		seal(&record, payload, number);
		memcpy(image->data + at, &record, sizeof(record));
	}
	return 1;
}
