// SPDX-License-Identifier: GPL-2.0
/*
 * Checkpoint/restart, x86-64: registers, extended states, vdso.
 */
#include <linux/mm.h>
#include <linux/ptrace.h>
#include <linux/regset.h>
#include <linux/sched/task_stack.h>
#include <linux/xxhash.h>
#include <asm/fpu/api.h>
#include <asm/fpu/regset.h>
#include <asm/fpu/signal.h>
#include <asm/fpu/types.h>
#include <asm/fsgsbase.h>
#include <asm/mmu_context.h>
#include <asm/pkru.h>
#include <asm/processor.h>
#include <asm/proto.h>
#include <asm/segment.h>
#include <asm/vdso.h>
#include <uapi/asm/prctl.h>

#include "../../../kernel/checkpoint/ckpt.h"
#include "fpu/internal.h"
#include "fpu/context.h"
#include "fpu/xstate.h"

/* What user space can change by itself (popf). */
#define USER_FLAGS (X86_EFLAGS_CF | X86_EFLAGS_PF | X86_EFLAGS_AF | \
		    X86_EFLAGS_ZF | X86_EFLAGS_SF | X86_EFLAGS_TF | \
		    X86_EFLAGS_DF | X86_EFLAGS_OF | X86_EFLAGS_RF | \
		    X86_EFLAGS_AC | X86_EFLAGS_ID | X86_EFLAGS_NT)

u64 ckpt_xfeatures(void)
{
	return fpu_user_cfg.max_features;
}

u64 ckpt_vdso_sum(void)
{
	return xxh64(vdso_image_64.data, vdso_image_64.size, 0);
}

bool ckpt_vma_is_vdso(struct vm_area_struct *vma)
{
	return vma_is_vdso(vma);
}

bool ckpt_vma_is_vvar(struct vm_area_struct *vma)
{
	return vma_is_vvar(vma);
}

/**
 * ckpt_map_vdso - map vvar and vdso where they were
 * @vvar: address of the first
 * @len: bytes of both
 *
 * Return: 0; -EINVAL where they are of another size; -EBUSY where the place is
 * taken.
 */
int ckpt_map_vdso(unsigned long vvar, unsigned long len)
{
	unsigned long text = vvar - vdso_image_64.sym_vvar_start;
	int ret;

	if (len != vdso_image_64.size - vdso_image_64.sym_vvar_start)
		return -EINVAL;
	ret = map_vdso_once(&vdso_image_64, vvar);
	if (ret)
		return ret;
	/* the address was only a hint */
	return (unsigned long)current->mm->context.vdso == text ? 0 : -EBUSY;
}

static int check_cpu(struct ckpt_ctx *ctx, struct task_struct *t)
{
	unsigned int i;

	for (i = 0; i < GDT_ENTRY_TLS_ENTRIES; i++)
		if (!desc_empty(&t->thread.tls_array[i]))
			return ckpt_err(ctx, -EOPNOTSUPP, "%s: TLS segments", t->comm);
	if (t->thread.io_bitmap || t->thread.iopl_emul)
		return ckpt_err(ctx, -EOPNOTSUPP, "%s: I/O port access", t->comm);
	if (test_tsk_thread_flag(t, TIF_NOTSC) ||
	    test_tsk_thread_flag(t, TIF_NOCPUID))
		return ckpt_err(ctx, -EOPNOTSUPP, "%s: PR_SET_TSC or ARCH_SET_CPUID",
				t->comm);
	if (!user_64bit_mode(task_pt_regs(t)))
		return ckpt_err(ctx, -EOPNOTSUPP, "%s: not a 64-bit program", t->comm);
	return 0;
}

int ckpt_check_mm_arch(struct ckpt_ctx *ctx, struct mm_struct *mm)
{
#ifdef CONFIG_MODIFY_LDT_SYSCALL
	if (mm->context.ldt)
		return ckpt_err(ctx, -EOPNOTSUPP, "a local descriptor table");
#endif
	return 0;
}

static int dump_xstate(struct ckpt_ctx *ctx, struct task_struct *t)
{
	size_t size = fpu_user_cfg.max_size;
	struct membuf to;
	void *buf;
	int ret;

	buf = kvzalloc(size, GFP_KERNEL);
	if (!buf)
		return -ENOMEM;
	to = (struct membuf){ .p = buf, .left = size };
	ret = xstateregs_get(t, NULL, to);
	if (!ret)
		ret = ckpt_write(ctx, CKPT_REC_XSTATE, 0, buf, size, NULL, 0);
	kvfree(buf);
	return ret;
}

/* What a debugger has set by PTRACE_POKEUSER. */
unsigned int ckpt_nr_breakpoints(struct task_struct *t)
{
	unsigned int i, n = 0;

	for (i = 0; i < HBP_NUM; i++)
		n += !!t->thread.ptrace_bps[i];
	return n;
}

static int dump_debugregs(struct ckpt_ctx *ctx, struct task_struct *t)
{
	struct ckpt_debugregs rec = { };
	unsigned int i;

	if (!ckpt_nr_breakpoints(t) && !t->thread.ptrace_dr7 &&
	    !t->thread.virtual_dr6)
		return 0;
	for (i = 0; i < HBP_NUM; i++)
		rec.dr[i] = ptrace_get_debugreg(t, i);
	rec.dr[6] = ptrace_get_debugreg(t, 6);
	rec.dr[7] = ptrace_get_debugreg(t, 7);
	return ckpt_write(ctx, CKPT_REC_DEBUGREGS, 0, &rec, sizeof(rec), NULL, 0);
}

int ckpt_dump_cpu(struct ckpt_ctx *ctx, struct task_struct *t)
{
	const struct pt_regs *regs = task_pt_regs(t);
	struct ckpt_regs rec = {
		.r15 = regs->r15, .r14 = regs->r14, .r13 = regs->r13,
		.r12 = regs->r12, .bp = regs->bp, .bx = regs->bx,
		.r11 = regs->r11, .r10 = regs->r10, .r9 = regs->r9,
		.r8 = regs->r8, .ax = regs->ax, .cx = regs->cx,
		.dx = regs->dx, .si = regs->si, .di = regs->di,
		.orig_ax = regs->orig_ax, .ip = regs->ip,
		.flags = regs->flags, .sp = regs->sp,
		.fsbase = x86_fsbase_read_task(t),
		.gsbase = x86_gsbase_read_task(t),
		.cs = regs->cs, .ss = regs->ss,
		.ds = t->thread.ds, .es = t->thread.es,
		.fs = t->thread.fsindex, .gs = t->thread.gsindex,
	};
	int ret;

	ret = check_cpu(ctx, t);
	if (!ret)
		ret = ckpt_write(ctx, CKPT_REC_REGS, 0, &rec, sizeof(rec), NULL, 0);
	if (!ret)
		ret = dump_debugregs(ctx, t);
	return ret ?: dump_xstate(ctx, t);
}

int ckpt_restore_debugregs(struct ckpt_ctx *ctx)
{
	ckpt_current(ctx)->debugregs = *(const struct ckpt_debugregs *)ctx->rbuf;
	return 0;
}

/**
 * ckpt_apply_debugregs - give current its breakpoints and watchpoints
 * @ctx: the restart
 * @rec: as a tracer may set them; all 0 for none
 *
 * Return: 0, or what PTRACE_POKEUSER would give.
 */
int ckpt_apply_debugregs(struct ckpt_ctx *ctx, const struct ckpt_debugregs *rec)
{
	unsigned int i;
	int ret = 0;

	if (!memchr_inv(rec, 0, sizeof(*rec)))
		return 0;
	for (i = 0; i < HBP_NUM && !ret; i++)
		if (rec->dr[i])
			ret = ptrace_set_debugreg(current, i, rec->dr[i]);
	if (!ret)
		ret = ptrace_set_debugreg(current, 7, rec->dr[7]);
	if (!ret)
		ret = ptrace_set_debugreg(current, 6, rec->dr[6]);
	return ret ? ckpt_err(ctx, ret, "debug registers") : 0;
}

static bool data_segment(u32 sel)
{
	return sel == 0 || sel == __USER_DS;
}

int ckpt_restore_regs(struct ckpt_ctx *ctx)
{
	const struct ckpt_regs *rec = (const void *)ctx->rbuf;

	if (rec->cs != __USER_CS || rec->ss != __USER_DS ||
	    !data_segment(rec->ds) || !data_segment(rec->es) ||
	    !data_segment(rec->fs) || !data_segment(rec->gs) ||
	    rec->ip >= TASK_SIZE_MAX || rec->fsbase >= TASK_SIZE_MAX ||
	    rec->gsbase >= TASK_SIZE_MAX)
		return ckpt_err(ctx, -EINVAL, "malformed registers");
	ckpt_current(ctx)->regs = *rec;
	return 0;
}

/**
 * ckpt_apply_regs - give current its user registers
 * @ctx: the restart
 * @rec: checked by ckpt_restore_regs()
 *
 * Comes after the last switch of address spaces, which zeroes the segment
 * bases (deactivate_mm()).
 *
 * Return: 0 or what setting a segment base gave.
 */
int ckpt_apply_regs(struct ckpt_ctx *ctx, const struct ckpt_regs *rec)
{
	struct pt_regs *regs = current_pt_regs();
	int ret;

	regs->r15 = rec->r15;
	regs->r14 = rec->r14;
	regs->r13 = rec->r13;
	regs->r12 = rec->r12;
	regs->bp = rec->bp;
	regs->bx = rec->bx;
	regs->r11 = rec->r11;
	regs->r10 = rec->r10;
	regs->r9 = rec->r9;
	regs->r8 = rec->r8;
	regs->ax = rec->ax;
	regs->cx = rec->cx;
	regs->dx = rec->dx;
	regs->si = rec->si;
	regs->di = rec->di;
	regs->orig_ax = rec->orig_ax;
	regs->ip = rec->ip;
	regs->flags = (rec->flags & USER_FLAGS) | X86_EFLAGS_IF | X86_EFLAGS_FIXED;
	regs->sp = rec->sp;
	regs->cs = __USER_CS;
	regs->ss = __USER_DS;
	loadsegment(ds, rec->ds);
	loadsegment(es, rec->es);
	/* loading the selectors zeroes the bases: those come after */
	loadsegment(fs, rec->fs);
	load_gs_index(rec->gs);
	ret = do_arch_prctl_64(current, ARCH_SET_FS, rec->fsbase);
	if (!ret)
		ret = do_arch_prctl_64(current, ARCH_SET_GS, rec->gsbase);
	return ret ? ckpt_err(ctx, ret, "segment bases") : 0;
}

/*
 * The registers of current may be live in the CPU; they are thrown away, and
 * loaded from memory again on the way to user space. The copy checks the
 * header and MXCSR, so that the load cannot fault.
 */
int ckpt_restore_xstate(struct ckpt_ctx *ctx)
{
	struct fpu *fpu = &current->thread.fpu;
	u32 pkru = pkru_get_init_value();
	int ret;

	if (ctx->rec.len != fpu_user_cfg.max_size)
		return ckpt_err(ctx, -EINVAL, "extended state of %llu bytes, not %u",
				ctx->rec.len, fpu_user_cfg.max_size);
	fpregs_lock();
	set_thread_flag(TIF_NEED_FPU_LOAD);
	__fpu_invalidate_fpregs_state(fpu);
	__cpu_invalidate_fpregs_state();
	fpregs_unlock();
	ret = copy_uabi_from_kernel_to_xstate(fpu->fpstate, ctx->rbuf, &pkru);
	if (ret)
		return ckpt_err(ctx, ret, "malformed extended state");
	current->thread.pkru = pkru;
	write_pkru(pkru);
	return 0;
}
