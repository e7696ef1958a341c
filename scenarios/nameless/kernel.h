/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef KERNEL_H
#define KERNEL_H

void kernel(void);
void opener(void);

#endif
