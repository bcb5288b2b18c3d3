/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memories and sources that are cut, punched, sealed, full, or hang. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "attacks.h"
#include "fuse.h"
#include "kernel/backing.h"
#include "party.h"
#include "support/memory-group.h"

static void detach(struct party *party, const char *name)
{
	(void)party_call(party, "io.ufd.guest.Detach", json_pack("{s:s}", "name", name), NULL, 0);
}

static void *touch_all(void *userdata)
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
		if (pthread_create(&thread, NULL, touch_all, party))
			_exit(2);
}

/* ---- the memory's file ---- */

static void truncate_memory(struct party *party)
{
	party_begin(party);
	while (party_goes_on(party)) {
		party_attach(party, "shrinking", true);
		for (int i = 0; i < 16; i++) {
			(void)!ftruncate(party->fds[FD_MEMORY], (off_t)(PARTY_BYTES / 16 * i));
			(void)!ftruncate(party->fds[FD_MEMORY], (off_t)PARTY_BYTES);
			party_check_page(party, party->bytes + (uint64_t)i * PAGE, (uint64_t)i);
		}
		(void)!ftruncate(party->fds[FD_MEMORY], 0);
		detach(party, "shrinking");
		(void)!ftruncate(party->fds[FD_MEMORY], (off_t)PARTY_BYTES);
	}
}

static void punch_memory(struct party *party)
{
	party_begin(party);
	party_attach(party, "holey", true);
	touch_beside(party, 2);
	while (party_goes_on(party))
		for (uint64_t i = 0; i < PARTY_N_PAGES; i += 3) {
			(void)fallocate(party->fds[FD_MEMORY],
					FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					(off_t)(i * PAGE), 3 * PAGE);
			party_check_page(party, party->bytes + i * PAGE, i);
		}
}

static void seal_memory(struct party *party)
{
	static const int seals[] = { F_SEAL_SHRINK | F_SEAL_GROW, F_SEAL_FUTURE_WRITE,
				     F_SEAL_SEAL };

	party_begin(party);
	for (size_t i = 0; party_goes_on(party); i++) {
		int fd = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);

		(void)!ftruncate(fd, (off_t)PARTY_BYTES);
		(void)mmap(party->bytes, PARTY_BYTES, PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_FIXED, fd, 0);
		if (i % 2)
			(void)fcntl(fd, F_ADD_SEALS, seals[i % 3]);
		close(party->fds[FD_MEMORY]);
		party->fds[FD_MEMORY] = fd;
		(void)party_call(
			party, "io.ufd.guest.Attach",
			party_attach_call("sealed",
					  json_pack("[o]", party_region(party, 0, PARTY_N_PAGES)),
					  true),
			party->fds, N_FDS);
		(void)fcntl(fd, F_ADD_SEALS, seals[i % 3]);
		detach(party, "sealed");
		for (uint64_t page = 0; page < 16; page++)
			party_check_page(party, party->bytes + page * PAGE, page);
	}
}

/* A file system with room for a quarter of the memory. */
static void fill_file_system(struct party *party)
{
	char folder[] = "/tmp/ufd-full-XXXXXX", path[64];
	int fd;

	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    !mkdtemp(folder) || mount("tmpfs", folder, "tmpfs", 0, "size=1m,mode=777"))
		party_skip(party, "no tmpfs can be mounted: %s", strerror(errno));
	snprintf(path, sizeof(path), "%s/ram", folder);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	(void)!ftruncate(fd, (off_t)PARTY_BYTES);
	umount2(folder, MNT_DETACH);
	rmdir(folder);
	party_begin(party);
	close(party->fds[FD_MEMORY]);
	party->fds[FD_MEMORY] = fd;
	(void)mmap(party->bytes, PARTY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
		   0);
	party_attach(party, "full", true);
	touch_beside(party, 4);
	party_rest(party);
}

/* Huge pages without a pool to take them from. */
static void empty_pool(struct party *party)
{
	int fd;
	void *bytes;
	json_t *region;

	if (backing_create(&fd, "huge", 8 * 2 * MIB, 2 * MIB) < 0)
		party_skip(party, "no huge pages here");
	party_begin(party);
	bytes = mmap(NULL, 8 * 2 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (bytes == MAP_FAILED)
		party_skip(party, "no huge pages can be mapped: %s", strerror(errno));
	region = json_pack("{s:s, s:I, s:i, s:i, s:s}", "memory", "huge", "address",
			   (json_int_t)(uintptr_t)bytes, "length_bytes", (int)(8 * 2 * MIB),
			   "backing_fd", FD_MEMORY, "source", "zero");
	close(party->fds[FD_MEMORY]);
	party->fds[FD_MEMORY] = fd;
	(void)party_call(party, "io.ufd.guest.Attach",
			 party_attach_call("huge", json_pack("[o]", region), true), party->fds,
			 N_FDS);
	if (fork() == 0) { /* it may be killed for it */
		(void)!*(volatile unsigned char *)bytes;
		_exit(0);
	}
	party_rest(party);
}

/* ---- the group that it is charged to ---- */

static void narrow_group(struct party *party)
{
	struct memory_group group;
	int r = memory_group_make(&group, 16 * MIB);
	pid_t child;

	if (r < 0)
		party_skip(party, "no memory control group can be made: %s", strerror(-r));
	child = fork();
	if (child == 0) {
		/* an anonymous memory larger than its group may be, with the image over and over */
		memory_group_enter(&group, getpid());
		party_begin(party);
		for (int i = 0; i < 8; i++) {
			char name[8], memory[8];
			json_t *region = party_region(party, 0, PARTY_N_PAGES);
			void *bytes = mmap(NULL, PARTY_BYTES, PROT_READ | PROT_WRITE,
					   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

			snprintf(name, sizeof(name), "n%d", i);
			snprintf(memory, sizeof(memory), "m%d", i);
			json_object_del(region, "backing_fd");
			json_object_set_new(region, "memory", json_string(memory));
			json_object_set_new(region, "address",
					    json_integer((json_int_t)(uintptr_t)bytes));
			if (i == 0)
				(void)party_call(
					party, "io.ufd.guest.Attach",
					party_attach_call("narrow", json_pack("[o]", region), true),
					party->fds, N_FDS);
			else
				(void)party_call(party, "io.ufd.guest.AddRegions",
						 json_pack("{s:s, s:i, s:[o]}", "name", "narrow",
							   "uffd", FD_UFFD, "regions", region),
						 party->fds, N_FDS);
		}
		party_rest(party);
		_exit(0);
	}
	while (!atomic_load(&party->stage->must_stop))
		if (waitpid(child, &r, WNOHANG) == child && WIFSIGNALED(r))
			party_complain(party, "the kernel killed a process for what was filled");
		else
			usleep(1000);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	memory_group_remove(&group);
}

/* ---- the source ---- */

static void cut_source(struct party *party)
{
	party_begin(party);
	while (party_goes_on(party)) {
		close(party->fds[FD_SOURCE]);
		party->fds[FD_SOURCE] = party_image();
		party_attach(party, "cut", true);
		party_check_page(party, party->bytes, 0);
		(void)!ftruncate(party->fds[FD_SOURCE], (off_t)(PARTY_BYTES / 2));
		(void)!ftruncate(party->fds[FD_SOURCE], 0);
		(void)party_call(party, "io.ufd.guest.RemoveRegion",
				 json_pack("{s:s, s:I, s:I}", "name", "cut", "address",
					   (json_int_t)(uintptr_t)party->bytes, "length_bytes",
					   (json_int_t)PARTY_BYTES),
				 NULL, 0);
		(void)madvise(party->bytes, PARTY_BYTES, MADV_REMOVE);
		detach(party, "cut");
	}
}

/* Reads that never end; then the guest dies over them. */
static void hung_source(struct party *party)
{
	int hung, r = fuse_open_hung(&hung, PARTY_BYTES, FUSE_NO_READS);
	pid_t child;

	if (r < 0)
		party_skip(party, "no FUSE here: %s", strerror(-r));
	child = fork();
	if (child == 0) {
		party->keeps_root = true; /* others may not hand over such a source */
		party_begin(party);
		party->fds[FD_SOURCE] = hung;
		party_attach(party, "hung", true);
		touch_beside(party, 4);
		usleep(20000);
		kill(getpid(), SIGKILL);
	}
	waitpid(child, NULL, 0);
	party_rest(party);
}

/* A file whose server answers nothing, not even how long it is, in every place. */
static void hung_handles(struct party *party)
{
	int hung, r = fuse_open_hung(&hung, PARTY_BYTES, FUSE_NOTHING);

	if (r < 0)
		party_skip(party, "no FUSE here: %s", strerror(-r));
	party_begin(party);
	while (party_goes_on(party))
		for (int place = 0; place < N_FDS; place++) {
			int good = party->fds[place];

			party->fds[place] = hung;
			party_expect_refusal(
				party, "a file that hangs", "io.ufd.guest.Attach",
				party_attach_call(
					"hanging",
					json_pack("[o]", party_region(party, 0, PARTY_N_PAGES)),
					true),
				party->fds, N_FDS);
			party->fds[place] = good;
		}
}

const struct attack attacks_with_files[] = {
	{ "a memory that is truncated in mid-fill", truncate_memory },
	{ "a memory that is punched", punch_memory },
	{ "a memory that is sealed", seal_memory },
	{ "a full file system", fill_file_system },
	{ "an empty pool of huge pages", empty_pool },
	{ "a memory control group at its limit", narrow_group },
	{ "a source that is cut", cut_source },
	{ "a source that hangs", hung_source },
	{ "a file that hangs, in every place", hung_handles },
	{},
};
