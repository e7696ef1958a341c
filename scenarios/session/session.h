/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef SESSION_H
#define SESSION_H

#include <sys/types.h>

/* As perror(), and the end, where `failed`. */
void check(int failed, const char *what);
/* The system call at which everything is stopped. */
void stop_here(void);
pid_t forked(void);
/* One byte through a pipe, and back. */
void send_byte(int fd);
void receive_byte(int fd);

void eventfds(void);
void signalfds(void);
void timerfds(void);
void memfds(void);
void epolls(void);
void nested(void);
void timers(void);

#endif
