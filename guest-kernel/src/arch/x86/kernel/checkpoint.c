// SPDX-License-Identifier: GPL-2.0-only
/*
 * Checkpoint/restart, x86-64: registers, extended states, vdso.
 */
#include <linux/mm.h>
#include <linux/nospec.h>
#include <linux/pkeys.h>
#include <linux/prctl.h>
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

/* The flags that user space can change (popf). */
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
 * ckpt_map_vdso - map vvar and vdso at the saved address
 * @vvar: address of vvar, which the vdso follows
 * @len: bytes of both
 *
 * Return: 0; -EINVAL if the size differs; -EBUSY if the address is in use.
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
	/* map_vdso_once() takes the address as a hint */
	return (unsigned long)current->mm->context.vdso == text ? 0 : -EBUSY;
}

/*
 * A 64-bit program may use int 0x80. A restart would resume such a call by its
 * number, which names a different system call in 64-bit mode.
 */
bool ckpt_restarts_as_32bit(struct task_struct *t)
{
#ifdef CONFIG_COMPAT
	return (task_thread_info(t)->status | t->restart_block.arch_data) &
	       TS_COMPAT;
#else
	return false;
#endif
}

static bool at_syscall_entry(struct task_struct *t)
{
	return t->ckpt_site.kind == CKPT_SITE_PTRACE &&
	       (t->ckpt_site.stop == CKPT_STOP_SYSCALL_ENTER ||
		t->ckpt_site.stop == CKPT_STOP_SECCOMP);
}

static int check_cpu(struct ckpt_ctx *ctx, struct task_struct *t)
{
	const struct fpu *fpu;
	unsigned int i;

	for (i = 0; i < GDT_ENTRY_TLS_ENTRIES; i++)
		if (!desc_empty(&t->thread.tls_array[i]))
			return ckpt_err(ctx, -EOPNOTSUPP, "%s: TLS segments", t->comm);
	if (t->thread.io_bitmap || t->thread.iopl_emul)
		return ckpt_err(ctx, -EOPNOTSUPP, "%s: I/O port access", t->comm);
	if (test_tsk_thread_flag(t, TIF_NOCPUID))
		return ckpt_err(ctx, -EOPNOTSUPP, "%s: ARCH_SET_CPUID", t->comm);
	fpu = &t->group_leader->thread.fpu;
	if ((READ_ONCE(fpu->perm.__state_perm) |
	     READ_ONCE(fpu->guest_perm.__state_perm)) &
	    ~(fpu_kernel_cfg.default_features | FPU_GUEST_PERM_LOCKED))
		return ckpt_err(ctx, -EOPNOTSUPP,
				"%s: ARCH_REQ_XCOMP_PERM or ARCH_REQ_XCOMP_GUEST_PERM (AMX)",
				t->comm);
	/* a dead tracer has left them; the next trap would clear them */
	if (!t->ptrace && (test_tsk_thread_flag(t, TIF_SINGLESTEP) ||
			   test_tsk_thread_flag(t, TIF_FORCED_TF) ||
			   test_tsk_thread_flag(t, TIF_BLOCKSTEP)))
		return ckpt_err(ctx, -EOPNOTSUPP,
				"%s: a single step that a dead tracer has left",
				t->comm);
#ifdef CONFIG_X86_USER_SHADOW_STACK
	if (t->thread.features || t->thread.features_locked)
		return ckpt_err(ctx, -EOPNOTSUPP, "%s: shadow stack features",
				t->comm);
#endif
	if (at_syscall_entry(t) && ckpt_restarts_as_32bit(t))
		return ckpt_err(ctx, -EOPNOTSUPP,
				"%s: in a system call of the 32-bit kind (int 0x80)",
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
#ifdef CONFIG_X86_INTEL_MEMORY_PROTECTION_KEYS
	if (cpu_feature_enabled(X86_FEATURE_OSPKE)) {
		u16 keys = mm_pkey_allocation_map(mm) & ~1;

		/*
		 * mprotect(PROT_EXEC) has allocated this key, and will allocate
		 * one in the restart too
		 */
		if (mm->context.execute_only_pkey > 0)
			keys &= ~(1U << mm->context.execute_only_pkey);
		if (keys)
			return ckpt_err(ctx, -EOPNOTSUPP,
					"protection keys (pkey_alloc)");
	}
#endif
#ifdef CONFIG_ADDRESS_MASKING
	if (mm->context.lam_cr3_mask)
		return ckpt_err(ctx, -EOPNOTSUPP, "linear address masking (LAM)");
#endif
	return 0;
}

static const unsigned long spec_ctrls[NR_CKPT_SPECS] = {
	[CKPT_SPEC_STORE_BYPASS] = PR_SPEC_STORE_BYPASS,
	[CKPT_SPEC_INDIRECT_BRANCH] = PR_SPEC_INDIRECT_BRANCH,
	[CKPT_SPEC_L1D_FLUSH] = PR_SPEC_L1D_FLUSH,
};

/* The result of PR_GET_SPECULATION_CTRL; 0 if the CPU lacks the control. */
static u32 spec_of(struct task_struct *t, enum ckpt_spec i)
{
	return max(arch_prctl_spec_ctrl_get(t, spec_ctrls[i]), 0);
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

/* Count the breakpoints that a debugger has set by PTRACE_POKEUSER. */
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
		.trap_nr = t->thread.trap_nr,
		.error_code = t->thread.error_code, .cr2 = t->thread.cr2,
		.tsc = test_tsk_thread_flag(t, TIF_NOTSC) ? PR_TSC_SIGSEGV :
							   PR_TSC_ENABLE,
	};
	unsigned int i;
	int ret;

	for (i = 0; i < NR_CKPT_SPECS; i++)
		rec.spec[i] = spec_of(t, i);
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
 * ckpt_apply_debugregs - set current's breakpoints and watchpoints
 * @ctx: the restart
 * @rec: values for PTRACE_POKEUSER; all 0 for none
 *
 * Return: 0, or the errno of PTRACE_POKEUSER.
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
	return ret ? ckpt_err(ctx, ret, "setting debug registers") : 0;
}

/* Selectors 0 to 3 are null selectors. */
static bool data_segment(u32 sel)
{
	return sel <= 3 || sel == __USER_DS;
}

/*
 * User space may load any canonical address by FSGSBASE instructions, but only
 * a user-space address by arch_prctl(2).
 */
static bool segment_base(u64 base)
{
	return base < TASK_SIZE_MAX ||
	       (boot_cpu_has(X86_FEATURE_FSGSBASE) &&
		__is_canonical_address(base, __VIRTUAL_MASK_SHIFT + 1));
}

static bool spec_ok(u32 spec)
{
	return !(spec & ~(PR_SPEC_PRCTL | PR_SPEC_ENABLE | PR_SPEC_DISABLE |
			  PR_SPEC_FORCE_DISABLE | PR_SPEC_DISABLE_NOEXEC)) &&
	       hweight32(spec & ~PR_SPEC_PRCTL) <= 1;
}

int ckpt_restore_regs(struct ckpt_ctx *ctx)
{
	const struct ckpt_regs *rec = (const void *)ctx->rbuf;
	unsigned int i;

	for (i = 0; i < NR_CKPT_SPECS; i++)
		if (!spec_ok(rec->spec[i]))
			return ckpt_err(ctx, -EINVAL, "malformed registers");
	if (rec->cs != __USER_CS || rec->ss != __USER_DS ||
	    !data_segment(rec->ds) || !data_segment(rec->es) ||
	    !data_segment(rec->fs) || !data_segment(rec->gs) ||
	    rec->ip >= TASK_SIZE_MAX || !segment_base(rec->fsbase) ||
	    !segment_base(rec->gsbase) ||
	    (rec->tsc != PR_TSC_ENABLE && rec->tsc != PR_TSC_SIGSEGV))
		return ckpt_err(ctx, -EINVAL, "malformed registers");
	ckpt_current(ctx)->regs = *rec;
	return 0;
}

/*
 * Set the bases after the selectors, because loading a selector changes the
 * base. With FSGSBASE both are independent; without FSGSBASE,
 * save_base_legacy() expects this combination.
 */
static void load_segments(const struct ckpt_regs *rec)
{
	preempt_disable();
	loadsegment(ds, rec->ds);
	loadsegment(es, rec->es);
	loadsegment(fs, rec->fs);
	load_gs_index(rec->gs);
	x86_fsbase_write_cpu(rec->fsbase);
	x86_gsbase_write_cpu_inactive(rec->gsbase);
	current->thread.fsindex = rec->fs;
	current->thread.gsindex = rec->gs;
	current->thread.fsbase = rec->fsbase;
	current->thread.gsbase = rec->gsbase;
	preempt_enable();
}

/* Set speculation controls as prctl(PR_SET_SPECULATION_CTRL) does. */
static int apply_spec(struct ckpt_ctx *ctx, const struct ckpt_regs *rec)
{
	unsigned int i;
	int ret;

	for (i = 0; i < NR_CKPT_SPECS; i++) {
		u32 want = rec->spec[i], have = spec_of(current, i);

		/*
		 * only restore a control that prctl(2) could set, then and now
		 */
		if (want == have || !(want & PR_SPEC_PRCTL) ||
		    !(have & (PR_SPEC_PRCTL | PR_SPEC_ENABLE)))
			continue;
		ret = arch_prctl_spec_ctrl_set(current, spec_ctrls[i],
					       want & ~PR_SPEC_PRCTL);
		if (ret && !(want & PR_SPEC_ENABLE))
			return ckpt_err(ctx, ret, "PR_SET_SPECULATION_CTRL %lu",
					spec_ctrls[i]);
	}
	return 0;
}

/**
 * ckpt_apply_regs - set current's user registers
 * @ctx: the restart
 * @rec: checked by ckpt_restore_regs()
 *
 * Called after the last switch of address spaces, which zeroes the segment
 * bases (deactivate_mm()).
 *
 * Return: 0; an errno of prctl(PR_SET_SPECULATION_CTRL); -EPERM if current has
 * inherited state from the caller that cannot be cleared.
 */
int ckpt_apply_regs(struct ckpt_ctx *ctx, const struct ckpt_regs *rec)
{
	struct pt_regs *regs = current_pt_regs();

	if (test_thread_flag(TIF_NOCPUID))
		return ckpt_err(ctx, -EPERM, "the caller has ARCH_SET_CPUID");
	/* iopl(2) is inherited from the caller, the port bitmap is not */
	current->thread.iopl_emul = 0;
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
	load_segments(rec);
	current->thread.trap_nr = rec->trap_nr;
	current->thread.error_code = rec->error_code;
	if (!ckpt_broken(CKPT_BREAK_REGISTER))
		current->thread.cr2 = rec->cr2;
	set_tsc_mode(rec->tsc);
#ifdef CONFIG_X86_VSYSCALL_EMULATION
	/* execve(2) of a 64-bit program sets this flag */
	__set_bit(MM_CONTEXT_HAS_VSYSCALL, &current->mm->context.flags);
#endif
	return apply_spec(ctx, rec);
}

/*
 * The registers of current may be live in the CPU. Invalidate them, so that the
 * return to user space loads them from memory. The copy checks the header and
 * MXCSR, so that the load cannot fault.
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
