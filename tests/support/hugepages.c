/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Huge pages for tests.
 *
 * The pool's size is changed by differences, under a lock, so that programs side by side add up.
 * The guardian process reads a pipe whose only writers are the program and its children: its end
 * means that all of them are gone, and so are their mappings.
 */
#include "support/hugepages.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/cleanup.h"

#define POOL "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"

static bool is_reserved;

static long read_pool(int pool)
{
	char text[32];
	ssize_t n = pread(pool, text, sizeof(text) - 1, 0);

	if (n <= 0)
		return -1;
	text[n] = '\0';
	return atol(text);
}

/* Return: by how much the pool has changed. */
static long change_pool(long by)
{
	_cleanup_(closep) int pool = open(POOL, O_RDWR | O_CLOEXEC);
	_cleanup_(closep) int lock = open("/tmp/.hugepages.lock", O_RDWR | O_CREAT | O_CLOEXEC,
					  0600);
	long before;

	if (pool < 0 || lock < 0 || flock(lock, LOCK_EX) < 0)
		return 0;
	before = read_pool(pool);
	if (before < 0 || dprintf(pool, "%ld", before + by) < 0)
		return 0;
	return read_pool(pool) - before;
}

static void guard(int program, long n)
{
	char byte;

	setsid();
	signal(SIGTERM, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	while (read(program, &byte, 1) < 0 && errno == EINTR)
		;
	change_pool(-n);
	_exit(0);
}

bool hugepages_reserve(unsigned int n)
{
	int ends[2];
	long got;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return false;
	got = change_pool((long)n);
	switch (fork()) {
	case -1:
		change_pool(-got);
		close(ends[1]);
		break;
	case 0:
		close(ends[1]);
		guard(ends[0], got);
		break;
	default: /* ends[1] stays open until the program ends */
		is_reserved = got == (long)n;
	}
	close(ends[0]);
	return is_reserved;
}

bool hugepages_are_reserved(void)
{
	return is_reserved;
}
