// SPDX-License-Identifier: Apache-2.0 OR MIT
/* The registers during a system call, and the rseq area. */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <errno.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <xmmintrin.h>

#include "state.h"
#include "workload.h"

#define REGISTERS 16
#define BYTES 32

static unsigned char before[REGISTERS][BYTES], after[REGISTERS][BYTES];
static uint64_t general[6];

/* Sets all vector registers, makes the call, and stores all of them. */
static void stop_with_registers(void)
{
	const long number = SYS_getppid;
	long result;

	asm volatile(
		"vmovdqu 0x000(%[from]), %%ymm0\n\tvmovdqu 0x020(%[from]), %%ymm1\n\t"
		"vmovdqu 0x040(%[from]), %%ymm2\n\tvmovdqu 0x060(%[from]), %%ymm3\n\t"
		"vmovdqu 0x080(%[from]), %%ymm4\n\tvmovdqu 0x0a0(%[from]), %%ymm5\n\t"
		"vmovdqu 0x0c0(%[from]), %%ymm6\n\tvmovdqu 0x0e0(%[from]), %%ymm7\n\t"
		"vmovdqu 0x100(%[from]), %%ymm8\n\tvmovdqu 0x120(%[from]), %%ymm9\n\t"
		"vmovdqu 0x140(%[from]), %%ymm10\n\tvmovdqu 0x160(%[from]), %%ymm11\n\t"
		"vmovdqu 0x180(%[from]), %%ymm12\n\tvmovdqu 0x1a0(%[from]), %%ymm13\n\t"
		"vmovdqu 0x1c0(%[from]), %%ymm14\n\tvmovdqu 0x1e0(%[from]), %%ymm15\n\t"
		"movq $0x1111, %%r8\n\tmovq $0x2222, %%r9\n\tmovq $0x3333, %%r10\n\t"
		"movq $0x4444, %%r12\n\tmovq $0x5555, %%r13\n\tmovq $0x6666, %%r14\n\t"
		"syscall\n\t"
		"vmovdqu %%ymm0, 0x000(%[to])\n\tvmovdqu %%ymm1, 0x020(%[to])\n\t"
		"vmovdqu %%ymm2, 0x040(%[to])\n\tvmovdqu %%ymm3, 0x060(%[to])\n\t"
		"vmovdqu %%ymm4, 0x080(%[to])\n\tvmovdqu %%ymm5, 0x0a0(%[to])\n\t"
		"vmovdqu %%ymm6, 0x0c0(%[to])\n\tvmovdqu %%ymm7, 0x0e0(%[to])\n\t"
		"vmovdqu %%ymm8, 0x100(%[to])\n\tvmovdqu %%ymm9, 0x120(%[to])\n\t"
		"vmovdqu %%ymm10, 0x140(%[to])\n\tvmovdqu %%ymm11, 0x160(%[to])\n\t"
		"vmovdqu %%ymm12, 0x180(%[to])\n\tvmovdqu %%ymm13, 0x1a0(%[to])\n\t"
		"vmovdqu %%ymm14, 0x1c0(%[to])\n\tvmovdqu %%ymm15, 0x1e0(%[to])\n\t"
		"movq %%r8, 0x00(%[general])\n\tmovq %%r9, 0x08(%[general])\n\t"
		"movq %%r10, 0x10(%[general])\n\tmovq %%r12, 0x18(%[general])\n\t"
		"movq %%r13, 0x20(%[general])\n\tmovq %%r14, 0x28(%[general])\n\t"
		: "=a"(result)
		: "a"(number), [from] "D"(before), [to] "S"(after), [general] "d"(general)
		: "rcx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "memory", "cc",
		  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
		  "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
	if (result != getppid())
		die("getppid");
}

static struct rseq *rseq_area(void)
{
	return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

void cpu(void)
{
	static const uint64_t wanted[] = { 0x1111, 0x2222, 0x3333, 0x4444, 0x5555, 0x6666 };
	static uint64_t base = 0x123456789abcdef0;
	unsigned int csr, number;
	unsigned short control, changed = 0x0e7f;
	uint64_t gs;

	for (int n = 0; n < REGISTERS; n++)
		for (int byte = 0; byte < BYTES; byte++)
			before[n][byte] = nonce >> (byte % 8 * 8) ^ (n * BYTES + byte);
	_mm_setcsr(_mm_getcsr() | _MM_ROUND_TOWARD_ZERO | _MM_FLUSH_ZERO_ON);
	csr = _mm_getcsr();
	asm volatile("fldcw %0" : : "m"(changed));
	syscall(SYS_arch_prctl, ARCH_SET_GS, &base);

	stop_with_registers();

	asm volatile("fnstcw %0" : "=m"(control));
	printf("ymm registers kept: %d\n", !memcmp(before, after, sizeof(before)));
	printf("general registers kept: %d\n", !memcmp(wanted, general, sizeof(wanted)));
	printf("mxcsr kept: %d, x87 control word kept: %d\n", _mm_getcsr() == csr,
	       control == changed);
	asm volatile("movq %%gs:0, %0" : "=r"(gs));
	printf("gs base kept: %d\n", gs == base);
	number = rseq_area()->cpu_id;
	printf("rseq: size %u, cpu_id is a CPU: %d, it is the current CPU: %d\n", __rseq_size,
	       number < (unsigned int)sysconf(_SC_NPROCESSORS_CONF),
	       number == (unsigned int)sched_getcpu());
	/* registering it again fails with EBUSY only if the kernel knows the area */
	errno = 0;
	if (syscall(SYS_rseq, rseq_area(), 32, 0, RSEQ_SIG) != -1)
		errno = 0;
	printf("rseq is still registered: %d\n", errno == EBUSY);
}
