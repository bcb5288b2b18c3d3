/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The machine that is measured on. */
#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"

static pid_t own[N_OWN_PROCESSES];
static unsigned int n_own;

void die(const char *what, ...)
{
	int error = errno;
	va_list arguments;

	fputs("bench: ", stderr);
	va_start(arguments, what);
	vfprintf(stderr, what, arguments);
	va_end(arguments);
	fprintf(stderr, " (%s)\n", strerror(error));
	exit(1);
}

void must(int r, const char *what)
{
	if (r == 0)
		return;
	errno = r < 0 ? -r : 0;
	die("cannot %s", what);
}

bool machine_has_userfaultfd(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

bool machine_cpus(int ret_cpus[2])
{
	cpu_set_t cpus;
	int n = 0;

	if (sched_getaffinity(0, sizeof(cpus), &cpus) < 0)
		die("cannot ask which CPUs there are");
	for (int cpu = 0; cpu < CPU_SETSIZE && n < 2; cpu++)
		if (CPU_ISSET(cpu, &cpus))
			ret_cpus[n++] = cpu;
	return n == 2;
}

void machine_pin(int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus) < 0)
		die("cannot stay on CPU %d", cpu);
}

void machine_come_first(void)
{
	int fd;

	(void)setpriority(PRIO_PROCESS, 0, -20);
	/* Where sessions share the CPU as groups, a process is compared within its own only. */
	if (setsid() < 0)
		return;
	fd = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	(void)!write(fd, "-20", 3);
	close(fd);
}

void machine_warm(uint64_t bytes)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (memory == MAP_FAILED)
		die("no %llu MiB of memory", (unsigned long long)(bytes / MIB));
	munmap(memory, bytes);
}

void machine_own(pid_t pid)
{
	if (n_own == N_OWN_PROCESSES)
		die("too many processes of our own");
	own[n_own++] = pid;
}

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	if (clock_gettime(clock, &now) < 0)
		die("a process of ours is gone");
	return (uint64_t)now.tv_sec * NSEC_PER_SEC + (uint64_t)now.tv_nsec;
}

/* All CPUs together; time that the host stole is somebody's, too. */
static uint64_t busy_ns(void)
{
	unsigned long long user, nice, system, idle, iowait, irq, softirq, steal;
	FILE *stat = fopen("/proc/stat", "re");
	int n = 0;

	if (stat) {
		n = fscanf(stat, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &user, &nice,
			   &system, &idle, &iowait, &irq, &softirq, &steal);
		fclose(stat);
	}
	if (n != 8)
		die("cannot read /proc/stat");
	return (user + nice + system + irq + softirq + steal) *
	       (NSEC_PER_SEC / (uint64_t)sysconf(_SC_CLK_TCK));
}

static uint64_t children_ns(void)
{
	struct rusage usage;

	if (getrusage(RUSAGE_CHILDREN, &usage) < 0)
		die("cannot ask what children took");
	return (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * NSEC_PER_SEC +
	       (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * NSEC_PER_USEC;
}

struct load machine_load(void)
{
	struct load load = { clock_now_ns(), busy_ns(),
			     clock_ns(CLOCK_PROCESS_CPUTIME_ID) + children_ns() };

	for (unsigned int i = 0; i < n_own; i++) {
		clockid_t clock;

		if (clock_getcpuclockid(own[i], &clock))
			die("process %d, which serves faults, is gone", (int)own[i]);
		load.own_ns += clock_ns(clock);
	}
	return load;
}

double machine_load_of_others(struct load from, struct load to)
{
	double all = (double)(to.at_ns - from.at_ns) * (double)sysconf(_SC_NPROCESSORS_ONLN);
	double busy = (double)(to.busy_ns - from.busy_ns);
	double ours = (double)(to.own_ns - from.own_ns);

	return busy > ours && all > 0 ? (busy - ours) / all : 0;
}
