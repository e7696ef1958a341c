// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Finds the origin of a failure in the call trace of the kernel's log. The failure is in a
 * function that one of ours calls, directly or not: the origin is our innermost function and
 * the function that it called.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fail-nth.h"

#define MAX_NAMES	4096

static char *names[MAX_NAMES];
static int nr_names, kmsg;
static char callee[128], found[300];
static int in_trace, nr_frames;

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

void load_names(const char *path)
{
	FILE *file = fopen(path, "re");
	char line[128];

	while (file && nr_names < MAX_NAMES && fscanf(file, "%127s", line) == 1)
		names[nr_names++] = strdup(line);
	if (!nr_names)
		fail("%s: no names", path);
	fclose(file);
	qsort(names, nr_names, sizeof(names[0]), by_name);
}

static int is_ours(char *name)
{
	return !!bsearch(&name, names, nr_names, sizeof(names[0]), by_name);
}

void open_log(void)
{
	kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (kmsg < 0)
		fail("/dev/kmsg: %m");
}

void forget_log(void)
{
	if (lseek(kmsg, 0, SEEK_END) < 0)
		fail("/dev/kmsg: %m");
	found[0] = '\0';
}

const char *origin(void)
{
	return found[0] ? found : "an allocation that fails without a message";
}

/* A frame of the trace, such as " ckpt_obj_new+0x3d/0x120". */
static void frame(const char *line)
{
	char name[128];
	char *end;

	if (sscanf(line, " %127[a-zA-Z0-9_.]", name) != 1 || !strstr(line, "+0x"))
		return;
	/* the compiler's suffixes: .constprop.0, .isra.0, .part.0 */
	end = strchr(name, '.');
	if (end)
		*end = '\0';
	nr_frames++;
	if (is_ours(name)) {
		if (callee[0])
			snprintf(found, sizeof(found), "%s > %s", name, callee);
		else
			snprintf(found, sizeof(found), "%s", name);
		in_trace = 0;
		return;
	}
	/* the machinery itself, and the allocators */
	static const char *const passed[] = {
		"dump_stack_lvl", "should_fail_ex", "should_fail", "should_failslab",
		"should_fail_alloc_page", "should_fail_usercopy", "fail_dump", "slab_pre_alloc_hook",
	};

	for (size_t i = 0; i < sizeof(passed) / sizeof(passed[0]); i++)
		if (!strcmp(name, passed[i]))
			return;
	if (strstr(name, "kmalloc") || strstr(name, "kmem_cache_alloc") || strstr(name, "alloc_pages") ||
	    strstr(name, "kvmalloc") || strstr(name, "kzalloc"))
		return;
	snprintf(callee, sizeof(callee), "%s", name);
}

/* Finds the origin of the first failure since forget_log(). */
void read_log(void)
{
	char record[2048];
	ssize_t len;

	in_trace = nr_frames = 0;
	callee[0] = '\0';
	for (;;) {
		len = read(kmsg, record, sizeof(record) - 1);
		if (len < 0 && errno == EPIPE)
			continue;
		if (len <= 0)
			break;
		record[len] = '\0';
		char *text = strchr(record, ';');

		if (!text || found[0])
			continue;
		text++;
		text[strcspn(text, "\n")] = '\0';
		if (!strncmp(text, "FAULT_INJECTION", 15))
			in_trace = 1;
		else if (in_trace && !strncmp(text, " </TASK>", 8))
			in_trace = 0;
		else if (in_trace && text[0] == ' ' && text[1] != '?' && text[1] != '<')
			frame(text);
	}
	if (!found[0] && nr_frames)
		snprintf(found, sizeof(found), "no function of ours: %s", callee);
}
