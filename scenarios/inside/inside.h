/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef INSIDE_H
#define INSIDE_H

void settings(void);
void used(void);
void crowd(void);

#endif
