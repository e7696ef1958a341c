// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Examines images, logs and outputs, and counts failures by their origin. */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint.h"
#include "fail-nth.h"

const char *first_line(int fd)
{
	static char line[256];
	ssize_t len = pread(fd, line, sizeof(line) - 1, 0);

	line[len > 0 ? len : 0] = '\0';
	line[strcspn(line, "\n")] = '\0';
	return line;
}

/* Returns a text with words that have a digit, such as pids and nonces, as "#". */
char *text_of(const char *path)
{
	static char text[65536];
	char *to = text;
	FILE *file = fopen(path, "re");
	int c, digit = 0;
	size_t len = 0;
	char word[256];

	for (;;) {
		c = file ? getc(file) : EOF;
		if (c != EOF && isalnum(c) && len < sizeof(word) - 1) {
			digit |= isdigit(c);
			word[len++] = c;
			continue;
		}
		if (to + len + 2 > text + sizeof(text))
			break;
		if (digit)
			*to++ = '#';
		else
			to = mempcpy(to, word, len);
		len = digit = 0;
		if (c == EOF)
			break;
		*to++ = c;
	}
	*to = '\0';
	if (file)
		fclose(file);
	return text;
}

/*
 * Returns true for errors that a call may return when an allocation or a copy fails, by the
 * kernel's conventions.
 */
int expected(int error, const char *origin)
{
	static const struct {
		int error;
		const char *origin;
	} upstream[] = {
		/* proc_pid_instantiate(), without an inode */
		{ ENOENT, "ckpt_open_gone" },
		/* copy_strings(), without a page */
		{ E2BIG, "ckpt_enter_exec" },
		/* load_elf_binary(), without the program's headers or the interpreter's */
		{ ENOEXEC, "ckpt_enter_exec" },
		{ ELIBBAD, "ckpt_enter_exec" },
	};

	for (size_t i = 0; i < sizeof(upstream) / sizeof(upstream[0]); i++)
		if (error == upstream[i].error &&
		    !strncmp(origin, upstream[i].origin, strlen(upstream[i].origin)))
			return 1;
	return error == ENOMEM || error == EFAULT || error == EAGAIN || error == ENFILE ||
	       error == ENOBUFS || error == EIO || error == ENOSPC;
}

static struct bytes load(int fd)
{
	struct bytes bytes;
	struct stat st;

	if (fstat(fd, &st))
		fail("fstat: %m");
	bytes.size = st.st_size;
	bytes.data = malloc(bytes.size + 1);
	if (!bytes.data || pread(fd, bytes.data, bytes.size, 0) != st.st_size)
		fail("an image: %m");
	return bytes;
}

/* CPU times, page faults and context switches: the resource use of a task varies. */
static const struct {
	uint32_t type;
	size_t begin, end;
} usage[] = {
	{ CKPT_REC_TASK, offsetof(struct ckpt_task, utime), offsetof(struct ckpt_task, mm) },
	{ CKPT_REC_TASK, offsetof(struct ckpt_task, exec_ns), sizeof(struct ckpt_task) },
	{ CKPT_REC_SIGNAL, offsetof(struct ckpt_signal, utime), offsetof(struct ckpt_signal, tty) },
	{ CKPT_REC_SIGNAL, offsetof(struct ckpt_signal, exec_ns), sizeof(struct ckpt_signal) },
};

static int is_usage(uint32_t type, size_t offset)
{
	for (size_t i = 0; i < sizeof(usage) / sizeof(usage[0]); i++)
		if (usage[i].type == type && offset >= usage[i].begin && offset < usage[i].end)
			return 1;
	return 0;
}

/* Bytes near one that differs may differ, too: they belong to the same number. */
#define NEAR	8

/* Adds an image: images may differ in the bytes in which it differs from the first one. */
void learn_image(struct bytes *known, struct bytes *mask, int fd)
{
	struct bytes bytes = load(fd);

	if (!known->data) {
		*known = bytes;
		mask->size = bytes.size;
		mask->data = calloc(1, bytes.size + 1);
		if (!mask->data)
			fail("calloc: %m");
		return;
	}
	if (bytes.size != known->size)
		tell("two images without a failure have %zu and %zu bytes", known->size,
		     bytes.size);
	for (size_t i = 0; i < bytes.size && i < known->size; i++) {
		if (bytes.data[i] == known->data[i])
			continue;
		size_t begin = i < NEAR ? 0 : i - NEAR;
		size_t end = i + NEAR < known->size ? i + NEAR : known->size;

		memset(mask->data + begin, 1, end - begin);
	}
	free(bytes.data);
}

/* Returns true when an image differs from the known ones, and sets the record. */
int differs(const struct bytes *known, const struct bytes *mask, int fd, char *what, size_t len)
{
	struct bytes bytes = load(fd);
	size_t at = 0, next = 0, size = bytes.size < known->size ? bytes.size : known->size;
	uint32_t type = 0;
	uint64_t length = 0;
	int number = -1, found = bytes.size != known->size;

	if (found)
		snprintf(what, len, "the image has %zu bytes instead of %zu", bytes.size,
			 known->size);
	for (size_t i = 0; i < size; i++) {
		while (i >= next && next + HEAD <= known->size) {
			at = next;
			memcpy(&type, known->data + at, 4);
			memcpy(&length, known->data + at + 8, 8);
			next = at + HEAD + length;
			number++;
		}
		/* the checksum changes with the content */
		if (i >= at + offsetof(struct ckpt_rec, sum) && i < at + HEAD)
			continue;
		if (bytes.data[i] != known->data[i] && !mask->data[i] &&
		    !is_usage(type, i - at - HEAD)) {
			snprintf(what, len, "record %d of the image, of type %u, differs at byte %zd",
				 number, type, (ssize_t)(i - at - HEAD));
			found = 1;
			break;
		}
	}
	free(bytes.data);
	return found;
}

void count(struct tally *tally, const char *origin, int error)
{
	int i = 0;

	while (i < tally->nr && (tally->rows[i].error != error || strcmp(tally->rows[i].origin, origin)))
		i++;
	if (i == MAX_ORIGINS)
		fail("too many origins");
	if (i == tally->nr) {
		tally->rows[tally->nr++].error = error;
		tally->rows[i].origin = strdup(origin);
	}
	tally->rows[i].count++;
}

/* Prints a list of [origin, error, number of times]; the error is empty if the call succeeded. */
void print_tally(const struct tally *tally)
{
	for (int i = 0; i < tally->nr; i++)
		printf("%s[\"%s\",\"%s\",%u]", i ? "," : "[", tally->rows[i].origin,
		       tally->rows[i].error ? strerrorname_np(tally->rows[i].error) : "",
		       tally->rows[i].count);
	printf("%s", tally->nr ? "]" : "[]");
}
