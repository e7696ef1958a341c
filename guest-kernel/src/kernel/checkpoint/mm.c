// SPDX-License-Identifier: GPL-2.0
/*
 * Address spaces: the mappings, and what the kernel knows about their layout.
 * Their private pages are in pages.c.
 *
 * A child's mm that still shares pages with its parent's is restored the way
 * it came to be: as a copy of the parent's (dup_mm()), in which the image's
 * mappings are kept where they are the same and replaced where they are not.
 * So what was shared copy-on-write is shared again.
 */
#include <linux/binfmts.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/sched/coredump.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/security.h>

#include "ckpt.h"

/* Mappings whose content or behaviour is not saved, and what people call them. */
static const struct {
	vm_flags_t vm;
	const char *name;
} refused[] = {
	{ VM_HUGETLB,		"huge pages (hugetlbfs)" },
	{ VM_LOCKED,		"locked memory (mlock)" },
	{ VM_SEALED,		"sealed (mseal)" },
	{ VM_UFFD_MISSING | VM_UFFD_WP | VM_UFFD_MINOR, "userfaultfd" },
	{ VM_SHADOW_STACK,	"a shadow stack" },
#ifdef CONFIG_ARCH_HAS_PKEYS
	{ VM_PKEY_BIT0 | VM_PKEY_BIT1 | VM_PKEY_BIT2 | VM_PKEY_BIT3,
	  "protection keys" },
#endif
	{ VM_PFNMAP | VM_IO | VM_MIXEDMAP, "device memory" },
};

/* What membarrier(2) registers, with and without its being in force. */
#define MEMBARRIER_STATES \
	(MEMBARRIER_STATE_PRIVATE_EXPEDITED | \
	 MEMBARRIER_STATE_PRIVATE_EXPEDITED_READY | \
	 MEMBARRIER_STATE_GLOBAL_EXPEDITED | \
	 MEMBARRIER_STATE_GLOBAL_EXPEDITED_READY | \
	 MEMBARRIER_STATE_PRIVATE_EXPEDITED_SYNC_CORE | \
	 MEMBARRIER_STATE_PRIVATE_EXPEDITED_SYNC_CORE_READY | \
	 MEMBARRIER_STATE_PRIVATE_EXPEDITED_RSEQ | \
	 MEMBARRIER_STATE_PRIVATE_EXPEDITED_RSEQ_READY)

static const struct {
	vm_flags_t vm;
	u32 advice;
} advices[] = {
	{ VM_DONTCOPY,		CKPT_VMA_DONTFORK },
	{ VM_DONTDUMP,		CKPT_VMA_DONTDUMP },
	{ VM_WIPEONFORK,	CKPT_VMA_WIPEONFORK },
	{ VM_SEQ_READ,		CKPT_VMA_SEQUENTIAL },
	{ VM_RAND_READ,		CKPT_VMA_RANDOM },
	{ VM_HUGEPAGE,		CKPT_VMA_HUGEPAGE },
	{ VM_NOHUGEPAGE,	CKPT_VMA_NOHUGEPAGE },
};

static u32 vma_advice(vm_flags_t vm)
{
	u32 advice = 0;
	int i;

	for (i = 0; i < ARRAY_SIZE(advices); i++)
		if (vm & advices[i].vm)
			advice |= advices[i].advice;
	return advice;
}

static vm_flags_t advice_flags(u32 advice)
{
	vm_flags_t vm = 0;
	int i;

	for (i = 0; i < ARRAY_SIZE(advices); i++)
		if (advice & advices[i].advice)
			vm |= advices[i].vm;
	return vm;
}

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

/* Come of the same exec: then they may share pages, and the vdso's place. */
static bool same_layout(const struct mm_struct *a, const struct mm_struct *b)
{
	return a->context.vdso == b->context.vdso &&
	       a->start_stack == b->start_stack &&
	       a->mmap_base == b->mmap_base;
}

/* The nearest ancestor's mm that this one is a copy of, if it is. */
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

static int describe_vma(struct ckpt_ctx *ctx, struct vm_area_struct *vma,
			unsigned long *vdso_end, struct ckpt_vma *rec)
{
	vm_flags_t vm = vma->vm_flags;
	int i;

	*rec = (struct ckpt_vma) {
		.start = vma->vm_start, .end = vma->vm_end,
		.advice = vma_advice(vm),
	};
	if (ckpt_vma_is_vvar(vma)) {
		struct vm_area_struct *vdso = find_vma(vma->vm_mm, vma->vm_end);

		if (!vdso || vdso->vm_start != vma->vm_end ||
		    !ckpt_vma_is_vdso(vdso))
			return ckpt_err(ctx, -EOPNOTSUPP, "a vdso in pieces");
		rec->kind = CKPT_VMA_VDSO;
		rec->advice = 0;
		rec->end = vdso->vm_end;
		*vdso_end = vdso->vm_end;
		return 0;
	}
	for (i = 0; i < ARRAY_SIZE(refused); i++)
		if (vm & refused[i].vm)
			return ckpt_err(ctx, -EOPNOTSUPP, "mapping %lx-%lx: %s",
					vma->vm_start, vma->vm_end,
					refused[i].name);
	if (vm & VM_READ)
		rec->prot |= PROT_READ;
	if (vm & VM_WRITE)
		rec->prot |= PROT_WRITE;
	if (vm & VM_EXEC)
		rec->prot |= PROT_EXEC;
	rec->flags = vm & VM_SHARED || (vma->vm_file && vm & VM_MAYSHARE) ?
		     MAP_SHARED : MAP_PRIVATE;
	if (vm & VM_GROWSDOWN)
		rec->flags |= MAP_GROWSDOWN;
	if (vm & VM_NORESERVE)
		rec->flags |= MAP_NORESERVE;
	rec->kind = CKPT_VMA_ANON;
	if (vma->vm_file) {
		rec->kind = CKPT_VMA_FILE;
		rec->offset = (u64)vma->vm_pgoff << PAGE_SHIFT;
	} else if (!vma_is_anonymous(vma)) {
		return ckpt_err(ctx, -EOPNOTSUPP, "mapping %lx-%lx: special",
				vma->vm_start, vma->vm_end);
	}
	return 0;
}

static int dump_mappings(struct ckpt_ctx *ctx, struct mm_struct *mm,
			 struct mm_struct *same)
{
	unsigned long addr = 0, vdso_end = 0;
	struct ckpt_vma rec;
	int ret = 0;

	/*
	 * Its tasks are frozen: only the lock's rules ask for it, and nothing
	 * that sleeps on the image's file may run under it.
	 */
	while (!ret) {
		struct vm_area_struct *vma;
		struct file *file = NULL;
		bool shared;

		if (mmap_read_lock_killable(mm))
			return -EINTR;
		vma = find_vma(mm, addr);
		if (!vma) {
			mmap_read_unlock(mm);
			break;
		}
		addr = vma->vm_end;
		rec.kind = 0;
		if (vma->vm_end != vdso_end || !ckpt_vma_is_vdso(vma))
			ret = describe_vma(ctx, vma, &vdso_end, &rec);
		if (!ret && rec.kind == CKPT_VMA_FILE)
			file = get_file(vma->vm_file);
		shared = rec.flags & MAP_SHARED;
		mmap_read_unlock(mm);
		if (file) {
			ret = ckpt_dump_file(ctx, file, &rec.file);
			fput(file);
		}
		if (!ret && rec.kind)
			ret = ckpt_write(ctx, CKPT_REC_VMA, 0, &rec, sizeof(rec),
					 NULL, 0);
		if (!ret && (rec.kind == 0 || (rec.kind != CKPT_VMA_VDSO && !shared)))
			ret = ckpt_dump_pages(ctx, mm, addr, same);
	}
	return ret;
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
}

int ckpt_dump_mm(struct ckpt_ctx *ctx, struct ckpt_tsk *ct, u32 *ref)
{
	struct mm_struct *mm = ct->task->mm, *same;
	struct ckpt_mm rec = { };
	struct file *exe;
	int ret;

	if (!mm)
		return ckpt_err(ctx, -EBUSY, "no memory of its own");
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
			return ckpt_err(ctx, ret, "its executable");
	}
	same = same_mm(ctx, ct, &rec.same_as);
	ret = ckpt_obj_new(ctx, CKPT_REC_MM, mm, ref);
	if (!ret)
		ret = ckpt_write(ctx, CKPT_REC_MM, *ref, &rec, sizeof(rec),
				 mm->saved_auxv, rec.auxv_len);
	if (!ret)
		ret = dump_mappings(ctx, mm, same);
	if (!ret)
		ret = ckpt_write(ctx, CKPT_REC_MM_END, 0, NULL, 0, NULL, 0);
	return ret;
}

static bool valid_mm(const struct ckpt_mm *rec)
{
	const u64 *a = &rec->start_code;
	int i;

	/* start_code .. mmap_base, all of them addresses */
	for (i = 0; i < 12; i++)
		if (a[i] >= TASK_SIZE_MAX)
			return false;
	return rec->start_brk <= rec->brk && rec->arg_start <= rec->arg_end &&
	       rec->env_start <= rec->env_end &&
	       rec->start_code <= rec->end_code &&
	       rec->start_data <= rec->end_data &&
	       PAGE_ALIGNED(rec->mmap_base) && rec->topdown <= 1 &&
	       rec->dumpable <= SUID_DUMP_ROOT && !rec->pad &&
	       !(rec->dump_filter & ~(MMF_DUMP_FILTER_MASK >> MMF_DUMP_FILTER_SHIFT)) &&
	       !(rec->membarrier & ~MEMBARRIER_STATES) &&
	       rec->auxv_len == sizeof_field(struct mm_struct, saved_auxv);
}

static int set_exe_file(struct ckpt_ctx *ctx, struct mm_struct *mm, u32 ref)
{
	struct file *exe;

	if (!ref)
		return 0;
	exe = ckpt_obj_fetch(ctx, CKPT_REC_FILE, ref);
	if (IS_ERR(exe))
		return PTR_ERR(exe);
	/* as execve(2) asks */
	if (!S_ISREG(file_inode(exe)->i_mode) || path_noexec(&exe->f_path))
		return ckpt_err(ctx, -EACCES, "%pD as an executable", exe);
	return set_mm_exe_file(mm, exe);
}

/**
 * ckpt_restore_mm - begin an address space and make it current's
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
	if (rec->same_as) {
		same = ckpt_obj_fetch(ctx, CKPT_REC_MM, rec->same_as);
		if (IS_ERR(same))
			return PTR_ERR(same);
		mm = dup_mm(current, same);
	} else {
		mm = mm_alloc();
	}
	if (!mm)
		return ckpt_err(ctx, -ENOMEM, "an address space");
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
	mm->flags &= ~MMF_DUMP_FILTER_MASK;
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

static bool valid_vma(const struct ckpt_ctx *ctx, const struct ckpt_vma *rec)
{
	u32 type = rec->flags & MAP_TYPE;

	if (rec->start < ctx->mm_end || rec->start >= rec->end ||
	    rec->end > TASK_SIZE_MAX || !PAGE_ALIGNED(rec->start) ||
	    !PAGE_ALIGNED(rec->end) || !PAGE_ALIGNED(rec->offset) || rec->pad)
		return false;
	if (rec->prot & ~(PROT_READ | PROT_WRITE | PROT_EXEC) ||
	    rec->flags & ~(MAP_TYPE | MAP_GROWSDOWN | MAP_NORESERVE) ||
	    vma_advice(advice_flags(rec->advice)) != rec->advice)
		return false;
	switch (rec->kind) {
	case CKPT_VMA_VDSO:
		return !rec->prot && !rec->flags && !rec->file && !rec->advice &&
		       !rec->offset;
	case CKPT_VMA_ANON:
		return type == MAP_PRIVATE && !rec->file && !rec->offset;
	case CKPT_VMA_FILE:
		return (type == MAP_PRIVATE || type == MAP_SHARED) &&
		       !(rec->flags & MAP_GROWSDOWN) &&
		       !(rec->advice & CKPT_VMA_WIPEONFORK);
	default:
		return false;
	}
}

/* overlayfs maps a file of its own in place of the one it was given */
static bool same_file(struct file *mapped, struct file *file)
{
	if (!mapped || !file)
		return mapped == file;
	return file_user_inode(mapped) == file_user_inode(file) &&
	       !((mapped->f_mode ^ file->f_mode) & FMODE_WRITE);
}

/* Does the copy of the parent's mm have this very mapping? */
static bool same_vma(struct ckpt_ctx *ctx, const struct ckpt_vma *rec,
		     struct file *file)
{
	unsigned long unused = 0;
	struct vm_area_struct *vma;
	struct ckpt_vma mine;
	bool same;

	mmap_read_lock(ctx->cur_mm);
	vma = find_vma(ctx->cur_mm, rec->start);
	same = vma && vma->vm_start == rec->start &&
	       same_file(vma->vm_file, file) &&
	       !describe_vma(ctx, vma, &unused, &mine);
	mine.file = rec->file;
	if (same)
		same = !memcmp(&mine, rec, sizeof(mine));
	mmap_read_unlock(ctx->cur_mm);
	return same;
}

/*
 * Neighbours with the same flags would be merged, and /proc/PID/maps would
 * show other lines than before. So the new mapping differs from the one below
 * it in VM_DONTCOPY until it is in place.
 */
static int map_vma(struct ckpt_ctx *ctx, const struct ckpt_vma *rec,
		   struct file *file)
{
	vm_flags_t vm = advice_flags(rec->advice) & ~VM_DONTCOPY, want;
	struct mm_struct *mm = ctx->cur_mm;
	struct vm_area_struct *vma, *prev;
	unsigned long addr, populate;
	u32 flags = rec->flags | MAP_FIXED_NOREPLACE;
	int ret;

	want = advice_flags(rec->advice) & VM_DONTCOPY;
	if (!file)
		flags |= MAP_ANONYMOUS;
	ret = security_mmap_file(file, rec->prot, flags);
	if (ret)
		return ret;
	if (mmap_write_lock_killable(mm))
		return -EINTR;
	find_vma_prev(mm, rec->start, &prev);
	if (!prev || prev->vm_end != rec->start || !(prev->vm_flags & VM_DONTCOPY))
		vm |= VM_DONTCOPY;
	addr = do_mmap(file, rec->start, rec->end - rec->start, rec->prot, flags,
		       vm, rec->offset >> PAGE_SHIFT, &populate, NULL);
	if (!IS_ERR_VALUE(addr)) {
		vma = find_vma(mm, addr);
		if (addr != rec->start || !vma || vma->vm_end != rec->end)
			addr = -EINVAL;
		else
			vm_flags_mod(vma, want, VM_DONTCOPY & ~want);
	}
	mmap_write_unlock(mm);
	return IS_ERR_VALUE(addr) ? (int)addr : 0;
}

int ckpt_restore_vma(struct ckpt_ctx *ctx)
{
	const struct ckpt_vma *rec = (const void *)ctx->rbuf;
	struct file *file = NULL;
	int ret;

	if (!ctx->cur_mm || !valid_vma(ctx, rec))
		return ckpt_err(ctx, -EINVAL, "malformed mapping %llx-%llx",
				rec->start, rec->end);
	ret = ckpt_end_pages(ctx);
	if (ret)
		return ret;
	if (rec->kind == CKPT_VMA_FILE) {
		file = ckpt_obj_fetch(ctx, CKPT_REC_FILE, rec->file);
		if (IS_ERR(file))
			return PTR_ERR(file);
	}
	/* what a copied mm has in between is not the image's */
	if (ctx->mm_rec.same_as && rec->start > ctx->mm_end) {
		ret = vm_munmap(ctx->mm_end, rec->start - ctx->mm_end);
		if (ret)
			return ret;
	}
	ctx->mm_end = rec->end;
	ctx->vma_end = rec->end;
	ctx->page_end = rec->start;
	ctx->vma_private = rec->kind != CKPT_VMA_FILE ||
			   (rec->flags & MAP_TYPE) == MAP_PRIVATE;
	ctx->vma_kept = ctx->mm_rec.same_as && same_vma(ctx, rec, file);
	if (ctx->vma_kept)
		return 0;
	if (ctx->mm_rec.same_as) {
		ret = vm_munmap(rec->start, rec->end - rec->start);
		if (ret)
			return ret;
	}
	if (rec->kind == CKPT_VMA_VDSO)
		ret = ckpt_map_vdso(rec->start, rec->end - rec->start);
	else
		ret = map_vma(ctx, rec, file);
	return ret ? ckpt_err(ctx, ret, "mapping %llx-%llx", rec->start, rec->end)
		   : 0;
}

int ckpt_restore_mm_end(struct ckpt_ctx *ctx)
{
	const struct ckpt_mm *rec = &ctx->mm_rec;
	struct mm_struct *mm = ctx->cur_mm;
	int ret;

	if (!mm)
		return ckpt_err(ctx, -EINVAL, "the end of no address space");
	ret = ckpt_end_pages(ctx);
	if (!ret && rec->same_as && ctx->mm_end < TASK_SIZE_MAX)
		ret = vm_munmap(ctx->mm_end, TASK_SIZE_MAX - ctx->mm_end);
	if (ret)
		return ret;
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
		return ckpt_err(ctx, -EINVAL, "an address space without an end");
	if (mm == current->mm)
		return 0;
	mmget(mm);
	ret = ckpt_switch_mm(mm, false);
	if (ret)
		mmput(mm);
	return ret;
}
