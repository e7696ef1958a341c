// SPDX-License-Identifier: GPL-2.0
/*
 * Mappings: what each is, and mapping it again at the same place, with the same
 * neighbours, so that /proc/PID/maps shows the same lines.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/security.h>
#include <linux/shmem_fs.h>

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

/* Of one that forbids new mappings to write: this one may. */
static bool is_unsealed(struct vm_area_struct *vma)
{
	struct file *file = vma->vm_file;

	return vma->vm_flags & VM_SHARED && vma->vm_flags & VM_MAYWRITE &&
	       file && shmem_mapping(file->f_mapping) &&
	       SHMEM_I(file_inode(file))->seals & F_SEAL_FUTURE_WRITE;
}

/* The kernel's own, such as a vdso */
static bool is_special(struct vm_area_struct *vma)
{
	return !vma->vm_file && !vma_is_anonymous(vma);
}

/* NULL, or why it cannot be saved; restart asks too, and has nobody to tell. */
static const char *describe_vma(struct vm_area_struct *vma,
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
			return "a vdso in pieces";
		rec->kind = CKPT_VMA_VDSO;
		rec->advice = 0;
		rec->end = vdso->vm_end;
		*vdso_end = vdso->vm_end;
		return NULL;
	}
	for (i = 0; i < ARRAY_SIZE(refused); i++)
		if (vm & refused[i].vm)
			return refused[i].name;
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
	if (is_special(vma))
		return "special";
	if (vma->vm_file) {
		rec->kind = CKPT_VMA_FILE;
		if (is_unsealed(vma))
			rec->advice |= CKPT_VMA_UNSEALED;
		rec->offset = (u64)vma->vm_pgoff << PAGE_SHIFT;
	}
	return NULL;
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
	int ret = 0;

	/*
	 * Its tasks are frozen: only the lock's rules ask for it, and nothing
	 * that sleeps on the image's file may run under it.
	 */
	while (!ret) {
		struct vm_area_struct *vma;
		struct file *file = NULL;
		const char *why = NULL;
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
			why = describe_vma(vma, &vdso_end, &rec);
		if (!why && rec.kind == CKPT_VMA_FILE)
			file = get_file(vma->vm_file);
		shared = rec.flags & MAP_SHARED;
		mmap_read_unlock(mm);
		if (why)
			ret = ckpt_err(ctx, -EOPNOTSUPP,
				       "mapping %llx-%llx: %s", rec.start,
				       rec.end, why);
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

static bool valid_vma(const struct ckpt_ctx *ctx, const struct ckpt_vma *rec)
{
	bool unsealed = rec->advice & CKPT_VMA_UNSEALED;
	u32 advice = rec->advice & ~CKPT_VMA_UNSEALED;
	u32 type = rec->flags & MAP_TYPE;

	if (rec->start < ctx->mm_end || rec->start >= rec->end ||
	    rec->end > TASK_SIZE_MAX || !PAGE_ALIGNED(rec->start) ||
	    !PAGE_ALIGNED(rec->end) || !PAGE_ALIGNED(rec->offset) || rec->pad)
		return false;
	if (rec->prot & ~(PROT_READ | PROT_WRITE | PROT_EXEC) ||
	    rec->flags & ~(MAP_TYPE | MAP_GROWSDOWN | MAP_NORESERVE) ||
	    vma_advice(advice_flags(advice)) != advice)
		return false;
	if (unsealed && (rec->kind != CKPT_VMA_FILE || type != MAP_SHARED))
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
	       !describe_vma(vma, &unused, &mine);
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

/* Is it memory that this restart has made, and nobody else can have yet? */
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
 * A mapping that is older than the seal which would forbid it. Only tasks of
 * this restart have the file, and only the one whose turn it is uses it.
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
 * Unmaps what the copy of the parent's mm has there. A special mapping cannot
 * be split; one that has to make room goes whole, since the image has no part
 * of one.
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
	/* what a copied mm has in between is not the image's */
	if (ctx->mm_rec.same_as && rec->start > ctx->mm_end) {
		ret = unmap_copied(ctx, ctx->mm_end, rec->start);
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
	return ret ? ckpt_err(ctx, ret, "mapping %llx-%llx", rec->start, rec->end)
		   : 0;
}
