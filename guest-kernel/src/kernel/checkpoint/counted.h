/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For kernels with CONFIG_GCOV_KERNEL. The compiler merges all "return -EINVAL"
 * of a function into one instruction, so gcov cannot count them separately.
 * These macros turn each errno into a statement, which gives each refusal a
 * basic block of its own. Included last, after all headers that define
 * functions.
 */
#ifndef _KERNEL_CHECKPOINT_COUNTED_H
#define _KERNEL_CHECKPOINT_COUNTED_H

#include <linux/errno.h>

enum {
	CKPT_EACCES = EACCES,
	CKPT_EAGAIN = EAGAIN,
	CKPT_EBUSY = EBUSY,
	CKPT_ECHILD = ECHILD,
	CKPT_EINVAL = EINVAL,
	CKPT_EINTR = EINTR,
	CKPT_EIO = EIO,
	CKPT_ENOMEM = ENOMEM,
	CKPT_ENOSPC = ENOSPC,
	CKPT_EOPNOTSUPP = EOPNOTSUPP,
	CKPT_EPERM = EPERM,
	CKPT_ESTALE = ESTALE,
};

#define CKPT_COUNTED(errno) ({ asm volatile(""); CKPT_##errno; })

#undef EACCES
#undef EAGAIN
#undef EBUSY
#undef ECHILD
#undef EINVAL
#undef EINTR
#undef EIO
#undef ENOMEM
#undef ENOSPC
#undef EOPNOTSUPP
#undef EPERM
#undef ESTALE

#define EACCES		CKPT_COUNTED(EACCES)
#define EAGAIN		CKPT_COUNTED(EAGAIN)
#define EBUSY		CKPT_COUNTED(EBUSY)
#define ECHILD		CKPT_COUNTED(ECHILD)
#define EINVAL		CKPT_COUNTED(EINVAL)
#define EINTR		CKPT_COUNTED(EINTR)
#define EIO		CKPT_COUNTED(EIO)
#define ENOMEM		CKPT_COUNTED(ENOMEM)
#define ENOSPC		CKPT_COUNTED(ENOSPC)
#define EOPNOTSUPP	CKPT_COUNTED(EOPNOTSUPP)
#define EPERM		CKPT_COUNTED(EPERM)
#define ESTALE		CKPT_COUNTED(ESTALE)

#endif /* _KERNEL_CHECKPOINT_COUNTED_H */
