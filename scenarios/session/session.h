/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef SESSION_H
#define SESSION_H

/* Sends one byte through a pipe. Printed text stays buffered. */
void wake(int fd);

void eventfds(void);
void signalfds(void);
void timerfds(void);
void memfds(void);
void epolls(void);
void nested(void);
void timers(void);

#endif
