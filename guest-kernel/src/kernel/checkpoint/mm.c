// SPDX-License-Identifier: GPL-2.0-only
/*
 * Address spaces and their layout. The mappings are in vma.c, the private pages
 * in pages.c.
 *
 * A child's mm that shares pages with an ancestor's is restored as a copy of
 * the ancestor's (dup_mm()). Mappings of the copy that are also in the image
 * are kept, all others are replaced. So pages that were shared copy-on-write
 * are shared again.
 */
#include <linux/binfmts.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/sched/coredump.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>

#include "ckpt.h"

/* The registrations of membarrier(2), before and after they are in force. */
#define MEMBARRIER_STATES \
	(MEMBARRIER_STATE_PRIVATE_EXPEDITED | \
	 MEMBARRIER_STATE_PRIVATE_EXPEDITED_READY | \
	 MEMBARRIER_STATE_GLOBAL_EXPEDITED | \
	 MEMBARRIER_STATE_GLOBAL_EXPEDITED_READY | \
	 MEMBARRIER_STATE_PRIVATE_EXPEDITED_SYNC_CORE | \
	 MEMBARRIER_STATE_PRIVATE_EXPEDITED_SYNC_CORE_READY | \
	 MEMBARRIER_STATE_PRIVATE_EXPEDITED_RSEQ | \
	 MEMBARRIER_STATE_PRIVATE_EXPEDITED_RSEQ_READY)

/* Check that no task outside the tree uses the mm. */
static int check_users(struct ckpt_ctx *ctx, struct mm_struct *mm)
{
	struct task_struct *p, *t, *found = NULL;

	rcu_read_lock();
	for_each_process_thread(p, t) {
		if (READ_ONCE(t->mm) == mm && !ckpt_find_task(ctx, t)) {
			found = get_task_struct(t);
			goto out;
		}
	}
out:
	rcu_read_unlock();
	if (!found)
		return 0;
	ckpt_err(ctx, -EBUSY,
		 "memory shared with pid %d (%s), which is not in the tree",
		 task_pid_nr_ns(found, ctx->pidns), found->comm);
	put_task_struct(found);
	return -EBUSY;
}

/*
 * Return true if both come from the same execve(2), so that they may share
 * pages.
 */
static bool same_layout(const struct mm_struct *a, const struct mm_struct *b)
{
	return a->context.vdso == b->context.vdso &&
	       a->start_stack == b->start_stack &&
	       a->mmap_base == b->mmap_base;
}

/* Find the nearest ancestor's mm that this mm is a copy of, NULL if none. */
static struct mm_struct *same_mm(struct ckpt_ctx *ctx, struct ckpt_tsk *ct,
				 u32 *ref)
{
	struct mm_struct *mm = ct->task->mm;

	while (ct->tree.ppid) {
		ct = ckpt_find_pid(ctx, ct->tree.ppid);
		if (!ct)
			break;
		if (ct->task->mm && ct->task->mm != mm &&
		    same_layout(ct->task->mm, mm) &&
		    ckpt_obj_lookup(ctx, CKPT_REC_MM, ct->task->mm, ref))
			return ct->task->mm;
	}
	return NULL;
}

/* The peak as /proc/PID/status shows it: get_mm_hiwater_rss() is inexact. */
static unsigned long peak_rss(struct mm_struct *mm)
{
	unsigned long rss = get_mm_counter_sum(mm, MM_FILEPAGES) +
			    get_mm_counter_sum(mm, MM_ANONPAGES) +
			    get_mm_counter_sum(mm, MM_SHMEMPAGES);

	return max(mm->hiwater_rss, rss);
}

static void fill_mm(struct mm_struct *mm, struct ckpt_mm *rec)
{
	spin_lock(&mm->arg_lock);
	rec->start_code = mm->start_code;
	rec->end_code = mm->end_code;
	rec->start_data = mm->start_data;
	rec->end_data = mm->end_data;
	rec->start_brk = mm->start_brk;
	rec->brk = mm->brk;
	rec->start_stack = mm->start_stack;
	rec->arg_start = mm->arg_start;
	rec->arg_end = mm->arg_end;
	rec->env_start = mm->env_start;
	rec->env_end = mm->env_end;
	spin_unlock(&mm->arg_lock);
	rec->mmap_base = mm->mmap_base;
	rec->vdso = (unsigned long)mm->context.vdso;
	rec->dumpable = get_dumpable(mm);
	rec->topdown = test_bit(MMF_TOPDOWN, &mm->flags);
	rec->auxv_len = sizeof(mm->saved_auxv);
	rec->dump_filter = (mm->flags & MMF_DUMP_FILTER_MASK) >>
			   MMF_DUMP_FILTER_SHIFT;
	rec->membarrier = atomic_read(&mm->membarrier_state);
	rec->hiwater_rss = peak_rss(mm);
	rec->hiwater_vm = get_mm_hiwater_vm(mm);
}

int ckpt_dump_mm(struct ckpt_ctx *ctx, struct ckpt_tsk *ct, u32 *ref)
{
	struct mm_struct *mm = ct->task->mm, *same;
	struct ckpt_mm rec = { };
	struct file *exe;
	int ret;

	if (!mm)
		return ckpt_err(ctx, -EBUSY, "the task has no address space");
	if (ckpt_obj_lookup(ctx, CKPT_REC_MM, mm, ref))
		return 0;
	ret = check_users(ctx, mm);
	if (!ret)
		ret = ckpt_check_mm_arch(ctx, mm);
	if (ret)
		return ret;
	if (mm->def_flags & VM_LOCKED)
		return ckpt_err(ctx, -EOPNOTSUPP, "mlockall");
	if (test_bit(MMF_DISABLE_THP, &mm->flags) ||
	    test_bit(MMF_HAS_MDWE, &mm->flags) ||
	    test_bit(MMF_VM_MERGE_ANY, &mm->flags))
		return ckpt_err(ctx, -EOPNOTSUPP,
				"PR_SET_THP_DISABLE, PR_SET_MDWE or PR_SET_MEMORY_MERGE");
	if (test_bit(MMF_HAS_UPROBES, &mm->flags))
		return ckpt_err(ctx, -EOPNOTSUPP,
				"uprobes: stop tracing its functions");
#ifdef CONFIG_AIO
	if (rcu_access_pointer(mm->ioctx_table))
		return ckpt_err(ctx, -EOPNOTSUPP, "asynchronous I/O contexts");
#endif
	fill_mm(mm, &rec);
	exe = get_mm_exe_file(mm);
	if (exe) {
		ret = ckpt_dump_file(ctx, exe, &rec.exe_file);
		fput(exe);
		if (ret)
			return ckpt_err(ctx, ret, "its executable cannot be saved");
		ckpt_obj_map(ctx, rec.exe_file);
	}
	same = same_mm(ctx, ct, &rec.same_as);
	ret = ckpt_obj_new(ctx, CKPT_REC_MM, mm, ref);
	if (!ret)
		ret = ckpt_write(ctx, CKPT_REC_MM, *ref, &rec, sizeof(rec),
				 mm->saved_auxv, rec.auxv_len);
	if (!ret)
		ret = ckpt_dump_vmas(ctx, mm, same);
	if (!ret)
		ret = ckpt_write(ctx, CKPT_REC_MM_END, 0, NULL, 0, NULL, 0);
	return ret;
}

static bool valid_mm(const struct ckpt_mm *rec)
{
	const u64 *a = &rec->start_code;
	int i;

	/* start_code .. mmap_base are addresses */
	for (i = 0; i < 12; i++)
		if (a[i] >= TASK_SIZE_MAX)
			return false;
	return rec->start_brk <= rec->brk && rec->arg_start <= rec->arg_end &&
	       rec->env_start <= rec->env_end &&
	       rec->start_code <= rec->end_code &&
	       rec->start_data <= rec->end_data &&
	       PAGE_ALIGNED(rec->mmap_base) && PAGE_ALIGNED(rec->vdso) &&
	       rec->topdown <= 1 &&
	       rec->dumpable <= SUID_DUMP_ROOT && !rec->pad &&
	       !(rec->dump_filter & ~(MMF_DUMP_FILTER_MASK >> MMF_DUMP_FILTER_SHIFT)) &&
	       !(rec->membarrier & ~MEMBARRIER_STATES) &&
	       rec->hiwater_rss <= TASK_SIZE_MAX >> PAGE_SHIFT &&
	       rec->hiwater_vm <= TASK_SIZE_MAX >> PAGE_SHIFT &&
	       rec->auxv_len == sizeof_field(struct mm_struct, saved_auxv);
}

static int set_exe_file(struct ckpt_ctx *ctx, struct mm_struct *mm, u32 ref)
{
	struct file *exe;
	int ret;

	if (!ref)
		return 0;
	exe = ckpt_obj_fetch(ctx, CKPT_REC_FILE, ref);
	if (IS_ERR(exe))
		return PTR_ERR(exe);
	/*
	 * As in prctl(PR_SET_MM_EXE_FILE): an executable cannot be opened for
	 * writing, so the caller must be allowed to execute it. The owner may
	 * have removed the right to execute it since the checkpoint.
	 */
	if (!S_ISREG(file_inode(exe)->i_mode) || path_noexec(&exe->f_path) ||
	    !(exe->f_mode & FMODE_READ) ||
	    (file_permission(exe, MAY_EXEC) &&
	     !inode_owner_or_capable(file_mnt_idmap(exe), file_inode(exe))))
		return ckpt_err(ctx, -EACCES, "%pD as an executable", exe);
	ret = set_mm_exe_file(mm, exe);
	return ret ? ckpt_err(ctx, ret, "%pD as an executable", exe) : 0;
}

/**
 * ckpt_restore_mm - create an address space and switch current to it
 * @ctx: the restart
 *
 * Return: 0 or a negative errno.
 */
int ckpt_restore_mm(struct ckpt_ctx *ctx)
{
	struct ckpt_mm *rec = &ctx->mm_rec;
	struct mm_struct *mm, *same;
	struct linux_binfmt *binfmt = current->mm->binfmt;
	int ret;

	memcpy(rec, ctx->rbuf, sizeof(*rec));
	if (ctx->rec.len != sizeof(*rec) + rec->auxv_len || !valid_mm(rec))
		return ckpt_err(ctx, -EINVAL, "malformed address space");
	/* SUID_DUMP_ROOT comes from fs.suid_dumpable, prctl(2) cannot set it */
	if (rec->dumpable == SUID_DUMP_ROOT && !capable(CAP_SYS_ADMIN))
		return ckpt_err(ctx, -EPERM,
				"an address space whose core dumps only root may read");
	ctx->vdso_mapped = false;
	if (rec->same_as) {
		same = ckpt_obj_fetch(ctx, CKPT_REC_MM, rec->same_as);
		if (IS_ERR(same))
			return PTR_ERR(same);
		mm = dup_mm(current, same);
	} else {
		mm = mm_alloc();
	}
	if (!mm)
		return ckpt_err(ctx, -ENOMEM, "allocating an address space");
	memcpy(mm->saved_auxv, ctx->rbuf + sizeof(*rec), rec->auxv_len);
	mm->saved_auxv[AT_VECTOR_SIZE - 2] = AT_NULL;
	mm->saved_auxv[AT_VECTOR_SIZE - 1] = AT_NULL;
	arch_pick_mmap_layout(mm, &current->signal->rlim[RLIMIT_STACK]);
	mm->mmap_base = rec->mmap_base;
	if (rec->topdown)
		set_bit(MMF_TOPDOWN, &mm->flags);
	else
		clear_bit(MMF_TOPDOWN, &mm->flags);
	mm->task_size = TASK_SIZE;
	/*
	 * Clear the flags inherited from the caller; ckpt_dump_mm() refuses an
	 * mm that has them. PR_SET_MDWE stays, because no task can clear it.
	 */
	mm->flags &= ~(MMF_DUMP_FILTER_MASK | MMF_DISABLE_THP_MASK |
		       MMF_VM_MERGE_ANY_MASK);
	mm->flags |= (unsigned long)rec->dump_filter << MMF_DUMP_FILTER_SHIFT;
	/* one reference for current, one for the object table */
	mmget(mm);
	ret = ckpt_switch_mm(mm, true);
	if (ret) {
		mmput(mm);
		mmput(mm);
		return ret;
	}
	if (!mm->binfmt)
		set_binfmt(binfmt);
	ret = ckpt_obj_insert(ctx, CKPT_REC_MM, ctx->rec.objref, mm);
	if (ret) {
		mmput(mm);
		return ret;
	}
	ctx->cur_mm = mm;
	ctx->mm_end = 0;
	ctx->page_end = 0;
	ctx->vma_end = 0;
	return set_exe_file(ctx, mm, rec->exe_file);
}

int ckpt_restore_mm_end(struct ckpt_ctx *ctx)
{
	const struct ckpt_mm *rec = &ctx->mm_rec;
	struct mm_struct *mm = ctx->cur_mm;
	int ret;

	if (!mm)
		return ckpt_err(ctx, -EINVAL, "MM_END without an address space");
	ret = ckpt_end_pages(ctx);
	if (!ret && rec->same_as && ctx->mm_end < TASK_SIZE_MAX)
		ret = vm_munmap(ctx->mm_end, TASK_SIZE_MAX - ctx->mm_end);
	if (ret)
		return ret;
	/* an unmapped vdso leaves its address in the mm */
	if (!ctx->vdso_mapped)
		mm->context.vdso = (void __user *)rec->vdso;
	if ((unsigned long)mm->context.vdso != rec->vdso)
		return ckpt_err(ctx, -EINVAL, "the vdso has moved");
	mmap_write_lock(mm);
	spin_lock(&mm->arg_lock);
	mm->start_code = rec->start_code;
	mm->end_code = rec->end_code;
	mm->start_data = rec->start_data;
	mm->end_data = rec->end_data;
	mm->start_brk = rec->start_brk;
	mm->brk = rec->brk;
	mm->start_stack = rec->start_stack;
	mm->arg_start = rec->arg_start;
	mm->arg_end = rec->arg_end;
	mm->env_start = rec->env_start;
	mm->env_end = rec->env_end;
	spin_unlock(&mm->arg_lock);
	/* not the peaks of the restart */
	mm->hiwater_rss = rec->hiwater_rss;
	mm->hiwater_vm = rec->hiwater_vm;
	mmap_write_unlock(mm);
	set_dumpable(mm, rec->dumpable);
	atomic_set(&mm->membarrier_state, rec->membarrier);
	preempt_disable();
	membarrier_update_current_mm(mm);
	preempt_enable();
	ctx->cur_mm = NULL;
	return 0;
}

int ckpt_apply_mm(struct ckpt_ctx *ctx, u32 ref)
{
	struct mm_struct *mm = ckpt_obj_fetch(ctx, CKPT_REC_MM, ref);
	int ret;

	if (IS_ERR(mm))
		return PTR_ERR(mm);
	if (ctx->cur_mm)
		return ckpt_err(ctx, -EINVAL, "an address space without MM_END");
	/* a thread already has its process's address space (restart_task.c) */
	if (mm == current->mm)
		return 0;
	if (!thread_group_leader(current))
		return ckpt_err(ctx, -EINVAL, "a thread with its own address space");
	mmget(mm);
	ret = ckpt_switch_mm(mm, false);
	if (ret)
		mmput(mm);
	return ret;
}
