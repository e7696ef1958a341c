/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _KERNEL_CHECKPOINT_TTY_H
#define _KERNEL_CHECKPOINT_TTY_H

#include <linux/list.h>
#include <linux/major.h>
#include <linux/tty.h>
#include <linux/tty_driver.h>
#include <uapi/linux/checkpoint.h>

/* A pseudo-terminal that is being restored. */
struct ckpt_terminal {
	struct list_head list;
	struct file *master;	/* reference of the object table */
	struct ckpt_tty rec;
	u8 *bytes;		/* the variable part of the record */
};

static inline bool ckpt_is_ptm(const struct tty_struct *tty)
{
	return tty->driver->major == UNIX98_PTY_MASTER_MAJOR;
}

static inline bool ckpt_is_pts(const struct tty_struct *tty)
{
	return tty->driver->major == UNIX98_PTY_SLAVE_MAJOR;
}

#endif /* _KERNEL_CHECKPOINT_TTY_H */
