/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef SESSION_H
#define SESSION_H

#include <sys/types.h>

/* Calls perror() and exits if `failed`. */
void check(int failed, const char *what);
/* The system call that is the event of the checkpoint. */
void stop_here(void);
pid_t forked(void);
/* Send and receive one byte through a pipe. */
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
