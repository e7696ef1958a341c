// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * timer SECONDS
 *
 * Checks that a CPU's timer keeps firing while the CPU repeatedly enters a guest with an
 * interrupt pending: at each entry QEMU may lose an interrupt (src/outer_linux.rs). Exit status
 * 0 if the number of entries during each sleep of 0.1 ms was low enough. Entries are a measure
 * that, unlike time, does not depend on the speed of the host.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PERIOD_NS 100000

/* The number of guest entries per second; a tick is 4 ms. */
#define TOO_MANY 30000

/* Number of guest entries. */
static volatile long *entries;

static long long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ll + time.tv_nsec;
}

static int must(const char *what, int result)
{
	if (result < 0)
		err(2, "%s", what);
	return result;
}

/* Enters and leaves a guest that has interrupts off, while KVM waits until they are on. */
static void run_guest(long long end)
{
	/* out %al, $0x10; and again */
	static const unsigned char code[] = { 0xe6, 0x10, 0xeb, 0xfc };
	int kvm = must("/dev/kvm", open("/dev/kvm", O_RDWR));
	int vm = must("KVM_CREATE_VM", ioctl(kvm, KVM_CREATE_VM, 0));
	int size = must("KVM_GET_VCPU_MMAP_SIZE", ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region memory = {
		.guest_phys_addr = 0x1000,
		.memory_size = 4096,
		.userspace_addr = (unsigned long)page,
	};
	struct kvm_regs regs = { .rip = 0x1000, .rflags = 2 };
	struct kvm_sregs sregs;
	struct kvm_run *run;
	int vcpu;

	must("KVM_SET_USER_MEMORY_REGION", ioctl(vm, KVM_SET_USER_MEMORY_REGION, &memory));
	memcpy(page, code, sizeof(code));
	vcpu = must("KVM_CREATE_VCPU", ioctl(vm, KVM_CREATE_VCPU, 0));
	run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	must("KVM_GET_SREGS", ioctl(vcpu, KVM_GET_SREGS, &sregs));
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	must("KVM_SET_SREGS", ioctl(vcpu, KVM_SET_SREGS, &sregs));
	must("KVM_SET_REGS", ioctl(vcpu, KVM_SET_REGS, &regs));
	run->request_interrupt_window = 1;
	for (; now() < end; ++*entries) {
		must("KVM_RUN", ioctl(vcpu, KVM_RUN, 0));
		if (run->exit_reason != KVM_EXIT_IO)
			errx(2, "the guest was left for %u", run->exit_reason);
	}
	exit(0);
}

int main(int argc, char **argv)
{
	long long end = now() + (argc > 1 ? atoi(argv[1]) : 10) * 1000000000ll;
	struct sched_param first = { .sched_priority = 50 };
	long most = 0;
	cpu_set_t last;
	int status;

	entries = mmap(NULL, sizeof(*entries), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		       -1, 0);
	if (entries == MAP_FAILED)
		err(2, "mmap");
	CPU_ZERO(&last);
	CPU_SET(sysconf(_SC_NPROCESSORS_ONLN) - 1, &last);
	must("sched_setaffinity", sched_setaffinity(0, sizeof(last), &last));
	if (!must("fork", fork()))
		run_guest(end);
	must("sched_setscheduler", sched_setscheduler(0, SCHED_FIFO, &first));
	while (now() < end) {
		struct timespec period = { .tv_nsec = PERIOD_NS };
		long before = *entries, meanwhile;

		clock_nanosleep(CLOCK_MONOTONIC, 0, &period, NULL);
		meanwhile = *entries - before;
		if (meanwhile > most)
			most = meanwhile;
	}
	must("wait", wait(&status));
	/* without guest entries the test is void */
	if (status || *entries < TOO_MANY)
		errx(2, "the guest ended with %#x after %ld entries", status, *entries);
	fprintf(stderr, "timer: %ld entries, at most %ld of them in a sleep\n", *entries, most);
	return most > TOO_MANY;
}
