// SPDX-License-Identifier: GPL-2.0-only
/*
 * The lines that checkpoint(2) and restart(2) write to the log descriptor.
 *
 * The descriptor may be a full pipe. So the system call collects its lines, and
 * its caller writes them after all other work. A full log thus does not delay
 * any task of the tree.
 */
#include <linux/fs.h>
#include <linux/list.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>

#include "ckpt.h"

/* Limits the memory that a forged image can use. Later lines are dropped. */
#define MAX_LINES	256

struct ckpt_line {
	struct list_head list;
	char text[];
};

static struct ckpt_line *make_line(const char *text)
{
	size_t len = strlen(text) + 1;
	struct ckpt_line *line;

	line = kmalloc(struct_size(line, text, len), GFP_KERNEL_ACCOUNT);
	if (line)
		memcpy(line->text, text, len);
	return line;
}

/**
 * ckpt_err - record an error and add a line to the log
 * @ctx: the checkpoint or restart
 * @err: negative errno
 * @fmt: description of the failure, without the errno
 *
 * The first error of a context becomes ctx->error.
 *
 * Return: @err.
 */
int ckpt_err(struct ckpt_ctx *ctx, int err, const char *fmt, ...)
{
	struct ckpt_line *line = NULL;
	struct va_format vaf;
	va_list args;
	char *text;

	va_start(args, fmt);
	vaf.fmt = fmt;
	vaf.va = &args;
	if (ctx->cur_pid)
		text = kasprintf(GFP_KERNEL, "pid %d: %pV (%pe)\n",
				 ctx->cur_pid, &vaf, ERR_PTR(err));
	else
		text = kasprintf(GFP_KERNEL, "%pV (%pe)\n", &vaf, ERR_PTR(err));
	va_end(args);
	if (text && ctx->logfile)
		line = make_line(text);
	kfree(text);

	spin_lock(&ctx->log_lock);
	if (!ctx->error)
		ctx->error = err;
	ctx->logged = true;
	if (line && ctx->nr_lines < MAX_LINES) {
		list_add_tail(&line->list, &ctx->log);
		ctx->nr_lines++;
		line = NULL;
	}
	spin_unlock(&ctx->log_lock);
	kfree(line);
	return err;
}

/**
 * ckpt_log_write - write the collected lines to the log descriptor
 * @ctx: the checkpoint or restart, which is complete
 *
 * Called by the caller of the system call. A signal ends the wait for a full
 * pipe.
 */
void ckpt_log_write(struct ckpt_ctx *ctx)
{
	struct ckpt_line *line;

	list_for_each_entry(line, &ctx->log, list) {
		size_t len = strlen(line->text), done = 0;

		while (done < len) {
			ssize_t n = kernel_write(ctx->logfile, line->text + done,
						 len - done,
						 &ctx->logfile->f_pos);

			if (n <= 0)
				return;
			done += n;
		}
	}
}

void ckpt_log_free(struct ckpt_ctx *ctx)
{
	struct ckpt_line *line, *next;

	list_for_each_entry_safe(line, next, &ctx->log, list)
		kfree(line);
}
