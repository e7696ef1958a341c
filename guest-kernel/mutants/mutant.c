// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mutants: debugfs checkpoint/mutant chooses one by its number; 0 chooses none.
 */
#include <linux/debugfs.h>
#include <linux/init.h>

#include <linux/ckpt_mutant.h>

u32 ckpt_mutant_chosen;

static int __init ckpt_mutant_init(void)
{
	struct dentry *dir = debugfs_lookup("checkpoint", NULL);

	if (!dir)
		dir = debugfs_create_dir("checkpoint", NULL);
	debugfs_create_u32("mutant", 0600, dir, &ckpt_mutant_chosen);
	return 0;
}
late_initcall_sync(ckpt_mutant_init);
