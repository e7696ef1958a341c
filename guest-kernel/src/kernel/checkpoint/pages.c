// SPDX-License-Identifier: GPL-2.0-only
/*
 * Private pages: anonymous memory, and the pages of private file mappings that
 * were written to. Untouched pages, and zero pages of anonymous mappings, are
 * left out.
 */
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/pagewalk.h>
#include <linux/sched/mm.h>

#include "ckpt.h"

#define BATCH	64

struct batch {
	unsigned int n;
	bool full;
	bool skip_zero;
	struct {
		unsigned long addr;
		struct page *page;	/* reference held; NULL: not present */
	} e[BATCH];
};

static int collect_pte(pte_t *pte, unsigned long addr, unsigned long next,
		       struct mm_walk *walk)
{
	struct batch *b = walk->private;
	pte_t entry = ptep_get(pte);
	struct page *page = NULL;

	if (pte_none(entry))
		return 0;
	if (pte_present(entry)) {
		page = vm_normal_page(walk->vma, addr, entry);
		if (!page || !PageAnon(page))
			return 0;
		get_page(page);
	}
	b->e[b->n].addr = addr;
	b->e[b->n].page = page;
	b->full = ++b->n == BATCH;
	return b->full;		/* a positive value ends the walk */
}

static const struct mm_walk_ops collect_ops = {
	.pte_entry = collect_pte,
	.walk_lock = PGWALK_RDLOCK,
};

/*
 * Get the page of an mm at an address, NULL if none. Called without its lock.
 */
static struct page *page_of(struct mm_struct *mm, unsigned long addr,
			    unsigned int flags)
{
	struct page *page = NULL;
	int locked = 1;

	if (mmap_read_lock_killable(mm))
		return NULL;
	if (get_user_pages_remote(mm, addr, 1, flags, &page, &locked) != 1)
		page = NULL;
	if (locked)
		mmap_read_unlock(mm);
	return page;
}

static bool shares_page(struct mm_struct *same, unsigned long addr,
			struct page *page)
{
	struct page *theirs;
	bool shares;

	if (!same || PageAnonExclusive(page))
		return false;
	theirs = page_of(same, addr, FOLL_FORCE | FOLL_DUMP);
	if (!theirs)
		return false;
	shares = theirs == page;
	put_page(theirs);
	return shares;
}

static bool zero_page(struct page *page)
{
	void *p = kmap_local_page(page);
	bool zero = !memchr_inv(p, 0, PAGE_SIZE);

	kunmap_local(p);
	return zero;
}

enum page_class { PAGE_LEAVE_OUT, PAGE_SAME, PAGE_DATA };

static enum page_class classify(struct batch *b, unsigned int i,
				struct mm_struct *same)
{
	/* the mm that shares the page has left it out, too */
	if (b->skip_zero && zero_page(b->e[i].page))
		return PAGE_LEAVE_OUT;
	if (shares_page(same, b->e[i].addr, b->e[i].page))
		return PAGE_SAME;
	return PAGE_DATA;
}

static int write_run(struct ckpt_ctx *ctx, struct batch *b, unsigned int from,
		     unsigned int nr, enum page_class class, char *buf)
{
	struct ckpt_pages rec = { .addr = b->e[from].addr, .nr = nr };
	unsigned int i;

	if (class == PAGE_LEAVE_OUT)
		return 0;
	if (class == PAGE_SAME)
		return ckpt_write(ctx, CKPT_REC_SAME, 0, &rec, sizeof(rec),
				  NULL, 0);
	for (i = 0; i < nr; i++)
		memcpy_from_page(buf + i * PAGE_SIZE, b->e[from + i].page, 0,
				 PAGE_SIZE);
	return ckpt_write(ctx, CKPT_REC_PAGES, 0, &rec, sizeof(rec), buf,
			  nr * PAGE_SIZE);
}

static int write_batch(struct ckpt_ctx *ctx, struct mm_struct *mm,
		       struct batch *b, struct mm_struct *same, char *buf)
{
	enum page_class class = PAGE_LEAVE_OUT, c;
	unsigned int from = 0, i;
	int ret = 0;

	for (i = 0; i < b->n && !ret; i++) {
		if (!b->e[i].page)
			b->e[i].page = page_of(mm, b->e[i].addr, FOLL_FORCE);
		if (!b->e[i].page)
			return ckpt_err(ctx, -EIO, "reading the page at %lx",
					b->e[i].addr);
		c = classify(b, i, same);
		if (i && (c != class ||
			  b->e[i].addr != b->e[i - 1].addr + PAGE_SIZE)) {
			ret = write_run(ctx, b, from, i - from, class, buf);
			from = i;
		}
		class = c;
	}
	if (!ret && b->n)
		ret = write_run(ctx, b, from, b->n - from, class, buf);
	return ret;
}

/**
 * ckpt_dump_pages - write the private pages of one mapping
 * @ctx: the checkpoint
 * @mm: the address space
 * @end: the mapping's end, which identifies it
 * @same: an mm whose pages are written already; NULL for none
 *
 * Return: 0 or a negative errno.
 */
int ckpt_dump_pages(struct ckpt_ctx *ctx, struct mm_struct *mm,
		    unsigned long end, struct mm_struct *same)
{
	unsigned long addr = end;
	struct batch *b;
	char *buf;
	int ret;

	if (ctx->check_only)
		return 0;
	b = kmalloc(sizeof(*b), GFP_KERNEL);
	buf = kvmalloc(BATCH * PAGE_SIZE, GFP_KERNEL);
	ret = -ENOMEM;
	if (!b || !buf)
		goto out;
	do {
		struct vm_area_struct *vma;

		ret = -EINTR;
		if (mmap_read_lock_killable(mm))
			break;
		vma = find_vma(mm, end - 1);
		if (!vma || vma->vm_end != end) {
			mmap_read_unlock(mm);
			ret = ckpt_err(ctx, -EAGAIN,
				       "its mappings have changed: try again");
			break;
		}
		if (addr == end)
			addr = vma->vm_start;
		b->n = 0;
		b->full = false;
		b->skip_zero = vma_is_anonymous(vma);
		ret = walk_page_range(mm, addr, end, &collect_ops, b);
		mmap_read_unlock(mm);
		if (ret < 0)
			break;
		if (b->n)
			addr = b->e[b->n - 1].addr + PAGE_SIZE;
		ret = write_batch(ctx, mm, b, same, buf);
		while (b->n)
			if (b->e[--b->n].page)
				put_page(b->e[b->n].page);
		cond_resched();
	} while (!ret && addr < end && b->full);
out:
	kvfree(buf);
	kfree(b);
	return ret;
}

/* Drop pages of the copied mm that are not in the image. */
static int drop_pages(struct ckpt_ctx *ctx, unsigned long from, unsigned long to)
{
	struct vm_area_struct *vma;

	if (!ctx->vma_kept || !ctx->vma_private || from >= to)
		return 0;
	mmap_read_lock(ctx->cur_mm);
	while (from < to) {
		unsigned long end;

		vma = find_vma_intersection(ctx->cur_mm, from, to);
		if (!vma)
			break;
		from = max(from, vma->vm_start);
		end = min(to, vma->vm_end);
		if (!(vma->vm_flags & (VM_PFNMAP | VM_IO)))
			zap_page_range_single(vma, from, end - from, NULL);
		from = end;
	}
	mmap_read_unlock(ctx->cur_mm);
	return 0;
}

static int enter_pages(struct ckpt_ctx *ctx, const struct ckpt_pages *rec)
{
	int ret;

	if (!ctx->cur_mm || !ctx->vma_private || !PAGE_ALIGNED(rec->addr) ||
	    rec->addr < ctx->page_end || rec->addr >= ctx->vma_end || !rec->nr ||
	    rec->nr > (ctx->vma_end - rec->addr) >> PAGE_SHIFT)
		return ckpt_err(ctx, -EINVAL, "malformed pages at %llx",
				rec->addr);
	ret = drop_pages(ctx, ctx->page_end, rec->addr);
	ctx->page_end = rec->addr + (rec->nr << PAGE_SHIFT);
	return ret;
}

int ckpt_restore_pages(struct ckpt_ctx *ctx)
{
	const struct ckpt_pages *rec = (const void *)ctx->rbuf;
	size_t len = ctx->rec.len - sizeof(*rec);
	int ret;

	if (rec->nr > len >> PAGE_SHIFT || len != rec->nr << PAGE_SHIFT)
		return ckpt_err(ctx, -EINVAL, "malformed pages at %llx",
				rec->addr);
	ret = enter_pages(ctx, rec);
	if (ret)
		return ret;
	/* this ends the sharing with the mm from which the mm was copied */
	if (access_remote_vm(ctx->cur_mm, rec->addr, (void *)(rec + 1), len,
			     FOLL_WRITE | FOLL_FORCE) != len)
		return ckpt_err(ctx, -ENOMEM, "writing pages at %llx", rec->addr);
	cond_resched();
	return 0;
}

/* Replace pages that an mm shares copy-on-write by copies of its own. */
static void unshare_pages(struct mm_struct *mm, const struct ckpt_pages *rec)
{
	u64 i;
	u8 byte;

	for (i = 0; i < rec->nr; i++) {
		unsigned long addr = rec->addr + (i << PAGE_SHIFT);

		if (access_remote_vm(mm, addr, &byte, 1, FOLL_FORCE) == 1)
			access_remote_vm(mm, addr, &byte, 1,
					 FOLL_WRITE | FOLL_FORCE);
	}
}

int ckpt_restore_same(struct ckpt_ctx *ctx)
{
	const struct ckpt_pages *rec = (const void *)ctx->rbuf;
	int ret;

	if (!ctx->vma_kept)
		return ckpt_err(ctx, -EINVAL,
				"shared pages at %llx without a copied mapping",
				rec->addr);
	ret = enter_pages(ctx, rec);
	if (!ret && ckpt_broken(CKPT_BREAK_SHARED_PAGE))
		unshare_pages(ctx->cur_mm, rec);
	return ret;
}

/* End the current mapping: drop the copied pages after its last record. */
int ckpt_end_pages(struct ckpt_ctx *ctx)
{
	if (!ctx->vma_end)
		return 0;
	return drop_pages(ctx, ctx->page_end, ctx->vma_end);
}
