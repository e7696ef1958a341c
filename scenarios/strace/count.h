/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef COUNT_H
#define COUNT_H

/* How many words a line has. */
int count_words(const char *line);

#endif
