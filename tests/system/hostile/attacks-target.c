/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Processes that misbehave while they are paged. Each round has a child of its own, without rights. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "attacks.h"
#include "party.h"

/* ---- rounds ---- */

static void *touch_once(void *userdata)
{
	struct party *party = userdata;

	for (uint64_t i = 0; i < PARTY_N_PAGES; i++)
		party_check_page(party, party->bytes + i * PAGE, i);
	return NULL;
}

static void touch_beside(struct party *party, int n_threads)
{
	pthread_t thread;

	for (int i = 0; i < n_threads; i++)
		if (pthread_create(&thread, NULL, touch_once, party))
			_exit(2);
}

/* A child does it; it may end as it likes, or wait to be ended. */
static pid_t child_of(struct party *party, void (*run)(struct party *, int), int step)
{
	pid_t child = fork();

	if (child == 0) {
		/* the uffd must be the child's own: made while it is root */
		party_begin(party);
		run(party, step);
		_exit(0);
	}
	if (child < 0)
		_exit(2);
	return child;
}

static void end_child(pid_t child)
{
	kill(child, SIGKILL);
	while (waitpid(child, NULL, __WALL) < 0)
		;
}

/* Until the child says so by stopping itself, or has ended. Return: whether it lives. */
static bool wait_stopped(pid_t child)
{
	int status = 0;

	return waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status);
}

/* ---- the ways to die ---- */

static void send_and_die(struct party *party, int step)
{
	json_t *call = party_attach_call(
		"dying", json_pack("[o]", party_region(party, 0, PARTY_N_PAGES)), step % 2);

	switch (step) {
	case 0: /* connected */
		break;
	case 1: /* half a message */
		(void)!write(varlink_client_fd(party->client), "{\"method\":", 10);
		break;
	case 2: /* the reply never read */
		(void)varlink_client_send(party->client, "io.ufd.guest.Attach", call, party->fds,
					  N_FDS, 0, 1);
		break;
	case 3: /* its memory gone before it is looked at */
		(void)varlink_client_send(party->client, "io.ufd.guest.Attach", call, party->fds,
					  N_FDS, 0, 1);
		munmap(party->bytes, PARTY_BYTES);
		break;
	case 4: /* attached */
	case 5:
		party_attach(party, "dying", step % 2);
		break;
	case 6: /* while its threads wait for pages */
	case 7:
		party_attach(party, "dying", step % 2);
		touch_beside(party, 4);
		sched_yield();
		break;
	case 8: /* while it adds a region */
		(void)party_call(party, "io.ufd.guest.Attach",
				 party_attach_call("dying",
						   json_pack("[o]", party_region(party, 0, 8)),
						   false),
				 party->fds, N_FDS);
		(void)varlink_client_send(party->client, "io.ufd.guest.AddRegions",
					  json_pack("{s:s, s:i, s:[o]}", "name", "dying", "uffd",
						    FD_UFFD, "regions", party_region(party, 8, 8)),
					  party->fds, N_FDS, 0, 1);
		break;
	}
	kill(getpid(), SIGKILL);
}

static void die_at_each_step(struct party *party)
{
	for (int step = 0; party_goes_on(party); step = (step + 1) % 9)
		waitpid(child_of(party, send_and_die, step), NULL, 0);
}

static void fill_until_killed(struct party *party, int step)
{
	party_attach(party, "short-lived", true);
	touch_beside(party, 2);
	usleep((useconds_t)(step * 100));
	kill(getpid(), SIGKILL);
}

static void killed_in_mid_fill(struct party *party)
{
	for (int step = 0; party_goes_on(party); step = (step + 1) % 8)
		waitpid(child_of(party, fill_until_killed, step), NULL, 0);
}

/* ---- stopped and traced ---- */

static void stop_in_the_middle(struct party *party, int step)
{
	party_attach(party, "stopped", step % 2);
	touch_beside(party, 4);
	raise(SIGSTOP);
}

static void stopped(struct party *party)
{
	for (int step = 0; party_goes_on(party); step++) {
		pid_t child = child_of(party, stop_in_the_middle, step);

		if (wait_stopped(child)) {
			if (!party->client)
				party_connect(party);
			(void)party_call(party, "io.ufd.guest.Detach",
					 json_pack("{s:s}", "name", "stopped"), NULL, 0);
		}
		end_child(child);
	}
}

static void wait_to_be_traced(struct party *party, int step)
{
	raise(SIGSTOP);
	for (;;)
		pause();
}

/* Somebody else holds it by ptrace: it is refused, and left as it is. */
static void traced(struct party *party)
{
	party_connect(party);
	while (party_goes_on(party)) {
		pid_t child = child_of(party, wait_to_be_traced, 0);

		if (wait_stopped(child) && ptrace(PTRACE_SEIZE, child, NULL, NULL) == 0) {
			party_expect_refusal(party, "a process that is traced",
					     "io.ufd.guest.AttachProcess",
					     json_pack("{s:s, s:i, s:s}", "name", "traced", "pid",
						       child, "source", "zero"),
					     NULL, 0);
		}
		end_child(child);
	}
}

static void be_traced_while_paged(struct party *party, int step)
{
	party_attach(party, "held", step % 2);
	touch_beside(party, 2);
	raise(SIGSTOP);
}

static void traced_while_paged(struct party *party)
{
	for (int step = 0; party_goes_on(party); step++) {
		pid_t child = child_of(party, be_traced_while_paged, step);

		if (wait_stopped(child))
			(void)ptrace(PTRACE_SEIZE, child, NULL, NULL);
		usleep(2000);
		end_child(child);
	}
}

/* ---- address spaces that change ---- */

static void change_mappings(struct party *party)
{
	const uint64_t part = PARTY_BYTES / 4;

	party_begin(party);
	while (party_goes_on(party)) {
		unsigned char *moved;

		party_attach(party, "shifting", true);
		munmap(party->bytes, part);
		moved = mremap(party->bytes + part, part, part, MREMAP_MAYMOVE);
		mprotect(party->bytes + 2 * part, part, PROT_NONE);
		(void)mmap(party->bytes + 3 * part, part, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		(void)!*(volatile unsigned char *)(party->bytes + 3 * part);
		if (moved != MAP_FAILED && moved != party->bytes + part)
			munmap(moved, part);
		(void)party_call(party, "io.ufd.guest.Detach",
				 json_pack("{s:s}", "name", "shifting"), NULL, 0);
		(void)mmap(party->bytes, PARTY_BYTES, PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_FIXED, party->fds[FD_MEMORY], 0);
		(void)madvise(party->bytes, PARTY_BYTES, MADV_REMOVE);
	}
}

static void become_another_program(struct party *party, int step)
{
	party_attach(party, "changing", step % 2);
	touch_beside(party, step % 3);
	execl("/bin/sleep", "sleep", "0.01", NULL);
}

static void executes(struct party *party)
{
	for (int step = 0; party_goes_on(party); step++)
		waitpid(child_of(party, become_another_program, step), NULL, 0);
}

static void touch_some(struct party *party)
{
	for (uint64_t i = 0; i < 32; i++)
		party_check_page(party, party->bytes + i * PAGE, i);
}

/* Children map the memory, too, and are not registered: what they see must be their own or zero. */
static void have_children(struct party *party, int step)
{
	party_attach(party, "fertile", step % 2);
	for (int i = 0; i < 4; i++)
		if (fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			touch_some(party);
			_exit(0);
		}
	touch_some(party);
	while (wait(NULL) > 0)
		;
}

static void forks(struct party *party)
{
	for (int step = 0; party_goes_on(party); step++)
		waitpid(child_of(party, have_children, step), NULL, 0);
}

const struct attack attacks_by_target[] = {
	{ "a client that dies at each step", die_at_each_step },
	{ "a process that is killed in mid-fill", killed_in_mid_fill },
	{ "a stopped process", stopped },
	{ "a process that is traced", traced },
	{ "a paged process that is traced", traced_while_paged },
	{ "mappings that change without a word", change_mappings },
	{ "a process that becomes another program", executes },
	{ "a process that forks", forks },
	{},
};
