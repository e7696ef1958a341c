// SPDX-License-Identifier: GPL-2.0-only
/*
 * Saves the properties of mappings, and restores them at the same address
 * without merging neighbours, so that /proc/PID/maps shows the same lines.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/mman.h>
#include <linux/security.h>
#include <linux/shmem_fs.h>

#include "ckpt.h"

/*
 * Flags of mappings whose content or behaviour is not saved, and their names.
 */
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
	{ VM_PFNMAP | VM_IO | VM_MIXEDMAP | VM_PAT, "device memory" },
	{ VM_SYNC,		"persistent memory (MAP_SYNC)" },
	{ VM_MERGEABLE,		"pages that may be merged (MADV_MERGEABLE)" },
};

/*
 * Flags that mmap(2) sets again: the limits of mprotect(2) come from the open
 * file, and new mappings are soft-dirty (/proc/PID/clear_refs).
 */
#define DERIVED_FLAGS	(VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC | VM_MAYSHARE | \
			 VM_SOFTDIRTY)

/* Flags that a record has in fields other than its advice. */
#define SAVED_FLAGS	(VM_READ | VM_WRITE | VM_EXEC | VM_SHARED | \
			 VM_GROWSDOWN | VM_NORESERVE | VM_ACCOUNT | VM_DROPPABLE)

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

/* Return true for a writable mapping that is older than F_SEAL_FUTURE_WRITE. */
static bool is_unsealed(struct vm_area_struct *vma)
{
	struct file *file = vma->vm_file;

	return vma->vm_flags & VM_SHARED && vma->vm_flags & VM_MAYWRITE &&
	       file && shmem_mapping(file->f_mapping) &&
	       SHMEM_I(file_inode(file))->seals & F_SEAL_FUTURE_WRITE;
}

/* Return true for a mapping that the kernel has installed, such as a vdso. */
static bool is_special(struct vm_area_struct *vma)
{
	return !vma->vm_file && !vma_is_anonymous(vma);
}

/*
 * Name a flag that prevents saving; NULL if every flag is in one of the tables.
 */
static const char *check_flags(const struct vm_area_struct *vma)
{
	vm_flags_t vm = vma->vm_flags;
	int i;

	for (i = 0; i < ARRAY_SIZE(refused); i++)
		if (vm & refused[i].vm)
			return refused[i].name;
	vm &= ~(DERIVED_FLAGS | SAVED_FLAGS);
	for (i = 0; i < ARRAY_SIZE(advices); i++)
		vm &= ~advices[i].vm;
	return vm ? "an unknown flag (VmFlags in smaps)" : NULL;
}

/*
 * Fill in the record of a mapping. Returns NULL, or the reason why it cannot be
 * saved. A restart compares mappings by this function and ignores the reason.
 */
static const char *describe_vma(struct vm_area_struct *vma,
				unsigned long *vdso_end, struct ckpt_vma *rec)
{
	vm_flags_t vm = vma->vm_flags;
	const char *why;

	*rec = (struct ckpt_vma) {
		.start = vma->vm_start, .end = vma->vm_end,
		.advice = vma_advice(vm),
	};
	if (ckpt_vma_is_vvar(vma)) {
		struct vm_area_struct *vdso = find_vma(vma->vm_mm, vma->vm_end);

		if (!vdso || vdso->vm_start != vma->vm_end ||
		    !ckpt_vma_is_vdso(vdso))
			return "a vdso in pieces";
		rec->kind = CKPT_VMA_VDSO;
		rec->advice = 0;
		rec->end = vdso->vm_end;
		*vdso_end = vdso->vm_end;
		return NULL;
	}
	why = is_special(vma) ? "special" : check_flags(vma);
	if (why)
		return why;
	if (anon_vma_name(vma))
		return "a name (PR_SET_VMA_ANON_NAME)";
	if (vm & VM_READ)
		rec->prot |= PROT_READ;
	if (vm & VM_WRITE)
		rec->prot |= PROT_WRITE;
	if (vm & VM_EXEC)
		rec->prot |= PROT_EXEC;
	rec->flags = vm & VM_SHARED || (vma->vm_file && vm & VM_MAYSHARE) ?
		     MAP_SHARED : MAP_PRIVATE;
	/* the memory of a shared mapping is accounted to its inode */
	if (vm & VM_ACCOUNT && rec->flags == MAP_PRIVATE)
		rec->advice |= CKPT_VMA_ACCOUNT;
	if (vm & VM_DROPPABLE)
		rec->flags = MAP_DROPPABLE;
	if (vm & VM_GROWSDOWN)
		rec->flags |= MAP_GROWSDOWN;
	if (vm & VM_NORESERVE)
		rec->flags |= MAP_NORESERVE;
	rec->kind = CKPT_VMA_ANON;
	if (vma->vm_file) {
		rec->kind = CKPT_VMA_FILE;
		if (is_unsealed(vma))
			rec->advice |= CKPT_VMA_UNSEALED;
		rec->offset = (u64)vma->vm_pgoff << PAGE_SHIFT;
	}
	return NULL;
}

/* Compare by inode, because overlayfs maps a backing file of its own. */
static bool same_file(struct file *mapped, struct file *file)
{
	if (!mapped || !file)
		return mapped == file;
	return file_user_inode(mapped) == file_user_inode(file) &&
	       !((mapped->f_mode ^ file->f_mode) & FMODE_WRITE);
}

/*
 * Return true if a copy of the restored @same will contain this mapping and its
 * pages. Only then can pages be saved as shared (CKPT_REC_SAME).
 */
static bool is_copied(struct mm_struct *same, const struct ckpt_vma *rec,
		      struct file *file)
{
	unsigned long unused = 0;
	struct vm_area_struct *vma;
	struct ckpt_vma theirs;
	bool copied;

	if (!same)
		return false;
	mmap_read_lock(same);
	vma = find_vma(same, rec->start);
	copied = vma && vma->vm_start == rec->start &&
		 !(vma->vm_flags & (VM_DONTCOPY | VM_WIPEONFORK)) &&
		 same_file(vma->vm_file, file) &&
		 !describe_vma(vma, &unused, &theirs);
	if (copied) {
		theirs.file = rec->file;
		copied = !memcmp(&theirs, rec, sizeof(theirs));
	}
	mmap_read_unlock(same);
	return copied;
}

/* Pages of shared mappings belong to a file; droppable pages may be lost. */
static bool has_pages(const struct ckpt_vma *rec)
{
	u32 type = rec->flags & MAP_TYPE;

	return rec->kind != CKPT_VMA_VDSO && type != MAP_SHARED &&
	       type != MAP_DROPPABLE;
}

/**
 * ckpt_dump_vmas - write the mappings of an address space, each with its pages
 * @ctx: the checkpoint
 * @mm: the address space
 * @same: one whose pages are written already; NULL for none
 *
 * Return: 0 or a negative errno.
 */
int ckpt_dump_vmas(struct ckpt_ctx *ctx, struct mm_struct *mm,
		   struct mm_struct *same)
{
	unsigned long addr = 0, vdso_end = 0;
	struct ckpt_vma rec;
	bool copied = false;
	int ret = 0;

	/*
	 * The tasks are frozen, so the lock is only taken because find_vma()
	 * requires it. It is dropped before writing, which may sleep for long.
	 */
	while (!ret) {
		struct vm_area_struct *vma;
		struct file *file = NULL;
		const char *why = NULL;

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
			why = describe_vma(vma, &vdso_end, &rec);
		if (!why && rec.kind == CKPT_VMA_FILE)
			file = get_file(vma->vm_file);
		mmap_read_unlock(mm);
		if (why)
			ret = ckpt_err(ctx, -EOPNOTSUPP,
				       "mapping %llx-%llx: %s", rec.start,
				       rec.end, why);
		if (file) {
			ret = ckpt_dump_file(ctx, file, &rec.file);
			if (!ret)
				ckpt_obj_map(ctx, rec.file);
		}
		if (!ret && rec.kind) {
			copied = is_copied(same, &rec, file);
			ret = ckpt_write(ctx, CKPT_REC_VMA, 0, &rec, sizeof(rec),
					 NULL, 0);
		}
		if (file)
			fput(file);
		if (!ret && (!rec.kind || has_pages(&rec)))
			ret = ckpt_dump_pages(ctx, mm, addr, copied ? same : NULL);
	}
	return ret;
}

static bool valid_vma(const struct ckpt_ctx *ctx, const struct ckpt_vma *rec)
{
	bool unsealed = rec->advice & CKPT_VMA_UNSEALED;
	u32 advice = rec->advice & ~(CKPT_VMA_UNSEALED | CKPT_VMA_ACCOUNT);
	u32 type = rec->flags & MAP_TYPE;

	if (rec->start < ctx->mm_end || rec->start >= rec->end ||
	    rec->end > TASK_SIZE_MAX || !PAGE_ALIGNED(rec->start) ||
	    !PAGE_ALIGNED(rec->end) || !PAGE_ALIGNED(rec->offset) || rec->pad)
		return false;
	if (rec->prot & ~(PROT_READ | PROT_WRITE | PROT_EXEC) ||
	    rec->flags & ~(MAP_TYPE | MAP_GROWSDOWN | MAP_NORESERVE) ||
	    vma_advice(advice_flags(advice)) != advice)
		return false;
	if (rec->advice & CKPT_VMA_ACCOUNT && type != MAP_PRIVATE)
		return false;
	if (unsealed && (rec->kind != CKPT_VMA_FILE || type != MAP_SHARED))
		return false;
	switch (rec->kind) {
	case CKPT_VMA_VDSO:
		return !rec->prot && !rec->flags && !rec->file && !rec->advice &&
		       !rec->offset;
	case CKPT_VMA_ANON:
		return (type == MAP_PRIVATE || type == MAP_DROPPABLE) &&
		       !rec->file && !rec->offset;
	case CKPT_VMA_FILE:
		return (type == MAP_PRIVATE || type == MAP_SHARED) &&
		       !(rec->flags & MAP_GROWSDOWN) &&
		       !(rec->advice & CKPT_VMA_WIPEONFORK);
	default:
		return false;
	}
}

/* Return true if the copied mm contains this mapping. */
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
	       !describe_vma(vma, &unused, &mine);
	mine.file = rec->file;
	if (same)
		same = !memcmp(&mine, rec, sizeof(mine));
	mmap_read_unlock(ctx->cur_mm);
	return same;
}

/*
 * do_mmap() would merge neighbours with equal flags, and /proc/PID/maps would
 * show different lines. So the new mapping differs from the one below it in
 * VM_DONTCOPY until it is in place.
 */
static int map_vma(struct ckpt_ctx *ctx, const struct ckpt_vma *rec,
		   struct file *file)
{
	vm_flags_t vm = advice_flags(rec->advice) & ~VM_DONTCOPY, want;
	struct mm_struct *mm = ctx->cur_mm;
	struct vm_area_struct *vma, *prev;
	unsigned long addr, populate;
	u32 flags = rec->flags | MAP_FIXED_NOREPLACE;
	bool atime;
	int ret;

	want = advice_flags(rec->advice) & VM_DONTCOPY;
	if (ckpt_broken(CKPT_BREAK_VMA_FLAG))
		vm = 0;
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
	/* mmap(2) by the restart must not change the access time */
	atime = file && !(file->f_flags & O_NOATIME);
	if (atime)
		file->f_flags |= O_NOATIME;
	addr = do_mmap(file, rec->start, rec->end - rec->start, rec->prot, flags,
		       vm, rec->offset >> PAGE_SHIFT, &populate, NULL);
	if (atime)
		file->f_flags &= ~O_NOATIME;
	if (!IS_ERR_VALUE(addr)) {
		vma = find_vma(mm, addr);
		if (addr != rec->start || !vma || vma->vm_end != rec->end)
			addr = -EINVAL;
		else
			vm_flags_mod(vma, want, VM_DONTCOPY & ~want);
		/*
		 * the mapping was accounted when it was writable, and stays so
		 */
		if (!IS_ERR_VALUE(addr) && rec->advice & CKPT_VMA_ACCOUNT &&
		    !(vma->vm_flags & VM_ACCOUNT) &&
		    !ckpt_broken(CKPT_BREAK_VMA_FLAG)) {
			ret = security_vm_enough_memory_mm(mm, vma_pages(vma));
			if (ret)
				addr = ret;
			else
				vm_flags_set(vma, VM_ACCOUNT);
		}
	}
	mmap_write_unlock(mm);
	return IS_ERR_VALUE(addr) ? (int)addr : 0;
}

/*
 * Return true if this restart has created the memory, so no other task has it.
 */
static bool is_own_shmem(struct ckpt_ctx *ctx, struct file *file)
{
	struct ckpt_obj *obj;
	unsigned long i;

	if (!shmem_mapping(file->f_mapping))
		return false;
	xa_for_each(&ctx->objs, i, obj)
		if (obj->type == CKPT_REC_INODE &&
		    file_inode(obj->ptr) == file_inode(file))
			return true;
	return false;
}

/*
 * Map memory whose seal forbids the mapping, because the original mapping was
 * older than the seal. The seal is lifted in the meantime: only tasks of this
 * restart have the file, and only the task that has the turn uses it.
 */
static int map_unsealed(struct ckpt_ctx *ctx, const struct ckpt_vma *rec,
			struct file *file)
{
	unsigned int *seals;
	int ret;

	if (!is_own_shmem(ctx, file))
		return -EPERM;
	seals = &SHMEM_I(file_inode(file))->seals;
	if (!(*seals & F_SEAL_FUTURE_WRITE))
		return -EINVAL;
	*seals &= ~F_SEAL_FUTURE_WRITE;
	ret = map_vma(ctx, rec, file);
	*seals |= F_SEAL_FUTURE_WRITE;
	return ret;
}

/*
 * Unmap a range of the copied mm. A special mapping that overlaps the end is
 * unmapped as a whole, because it cannot be split; an image does not contain a
 * part of one.
 */
static int unmap_copied(struct ckpt_ctx *ctx, unsigned long start,
			unsigned long end)
{
	struct vm_area_struct *vma;

	mmap_read_lock(ctx->cur_mm);
	vma = find_vma(ctx->cur_mm, end - 1);
	if (vma && vma->vm_start < end && is_special(vma))
		end = vma->vm_end;
	mmap_read_unlock(ctx->cur_mm);
	return vm_munmap(start, end - start);
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
	/* the image has no mappings in between */
	if (ctx->mm_rec.same_as && rec->start > ctx->mm_end) {
		ret = unmap_copied(ctx, ctx->mm_end, rec->start);
		if (ret)
			return ret;
	}
	ctx->vdso_mapped |= rec->kind == CKPT_VMA_VDSO;
	ctx->mm_end = rec->end;
	ctx->vma_end = rec->end;
	ctx->page_end = rec->start;
	ctx->vma_private = rec->kind != CKPT_VMA_FILE ||
			   (rec->flags & MAP_TYPE) == MAP_PRIVATE;
	ctx->vma_kept = ctx->mm_rec.same_as && same_vma(ctx, rec, file);
	if (ctx->vma_kept)
		return 0;
	if (ctx->mm_rec.same_as) {
		ret = unmap_copied(ctx, rec->start, rec->end);
		if (ret)
			return ret;
	}
	if (rec->kind == CKPT_VMA_VDSO)
		ret = ckpt_map_vdso(rec->start, rec->end - rec->start);
	else if (rec->advice & CKPT_VMA_UNSEALED)
		ret = map_unsealed(ctx, rec, file);
	else
		ret = map_vma(ctx, rec, file);
	return ret ? ckpt_err(ctx, ret, "creating mapping %llx-%llx", rec->start,
			      rec->end) : 0;
}
