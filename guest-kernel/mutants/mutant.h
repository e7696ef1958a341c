/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mutants: included by the rewritten sources of a kernel that has them. Each
 * mutant that the compiler keeps leaves its number in a section of the image.
 */
#ifndef _KERNEL_CHECKPOINT_MUTANT_H
#define _KERNEL_CHECKPOINT_MUTANT_H

#include <linux/compiler.h>
#include <linux/types.h>

#pragma GCC diagnostic ignored "-Wunused-value"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wbool-operation"
#pragma GCC diagnostic ignored "-Wdangling-else"
#pragma GCC diagnostic ignored "-Wparentheses"

extern u32 ckpt_mutant_chosen;

/* True if mutant @n, a literal, is chosen. */
#define ckpt_mutant(n) ({						\
	asm volatile(".pushsection .ckpt_mutants,\"\"\n"		\
		     ".long %c0\n"					\
		     ".popsection" :: "i" (n));				\
	unlikely(READ_ONCE(ckpt_mutant_chosen) == (n)); })

/* @cond, negated if mutant @n is chosen. */
#define ckpt_negate(n, cond) (ckpt_mutant(n) ^ !!(cond))

#define CKPT_IS_INTEGER(v) (__builtin_classify_type(v) == 1)
#define CKPT_INTEGER(v) __builtin_choose_expr(CKPT_IS_INTEGER(v), v, 0)

/*
 * @e, one larger if mutant @n is chosen; a bool is inverted. The value of
 * an expression that is not an integer stays, and has no mutant.
 */
#define ckpt_skew(n, e) ({						\
	__auto_type _ckpt_v = ((void)0, (e));				\
	if (CKPT_IS_INTEGER(_ckpt_v) && ckpt_mutant(n))			\
		_ckpt_v = __builtin_choose_expr(			\
			CKPT_IS_INTEGER(_ckpt_v),			\
			_Generic((_ckpt_v),				\
				 bool: !CKPT_INTEGER(_ckpt_v),		\
				 default: CKPT_INTEGER(_ckpt_v) + 1),	\
			_ckpt_v);					\
	_ckpt_v; })

#endif /* _KERNEL_CHECKPOINT_MUTANT_H */
