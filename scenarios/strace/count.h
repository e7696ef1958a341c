/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef COUNT_H
#define COUNT_H

/* Returns the number of words in a line. */
int count_words(const char *line);

#endif
