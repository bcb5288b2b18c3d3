/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which mappings of a process are taken for its memory. */
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "kernel/features.h"
#include "kernel/uffd.h"
#include "refusal.h"
#include "support/qemu.h"
#include "support/target-attach.h"
#include "support/unit.h"

#define PAGE   ((uint64_t)sysconf(_SC_PAGESIZE))
#define LENGTH (16 * PAGE)
/* Not the length of anything else. */
#define ANON_LENGTH (37 * PAGE)

/* Longer than what the table of mappings holds of a name. */
#define LONG_NAME \
	"/dev/shm/ufd-test-a-name-that-is-longer-than-the-sixty-three-characters-of-a-map-"

/* A process with all kinds of mappings. The fds are ours too, under the same numbers. */
struct mapper {
	pid_t pid;
	int ram;  /* mapped twice, first half and all */
	int twin; /* another memfd of the same name */
	int file; /* on tmpfs, with a long name */
	char file_name[160];
	int ready[2];
};

static void *map(int fd, uint64_t length, int protection, int flags)
{
	void *at = mmap(NULL, length, protection, flags, fd, 0);

	if (at == MAP_FAILED)
		_exit(1);
	return at;
}

static _Noreturn void map_and_wait(const struct mapper *mapper, bool has_uffd, bool closes_fds)
{
	const int rw = PROT_READ | PROT_WRITE;
	struct hva_range ram;
	char *fenced;
	int uffd;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	map(mapper->ram, LENGTH / 2, rw, MAP_SHARED);
	map(-1, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS); /* keeps neighbours apart */
	ram = (struct hva_range){ { (uintptr_t)map(mapper->ram, LENGTH, rw, MAP_SHARED) }, LENGTH };
	map(mapper->twin, LENGTH, rw, MAP_SHARED);
	map(mapper->file, LENGTH, rw, MAP_SHARED);
	map(mapper->twin, 3 * PAGE, PROT_READ, MAP_SHARED);
	map(mapper->twin, 5 * PAGE, rw, MAP_PRIVATE);
	/* a page without rights on either side: the kernel joins neighbours that are alike */
	fenced = mmap(NULL, ANON_LENGTH + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (fenced == MAP_FAILED || mprotect(fenced + PAGE, ANON_LENGTH, rw) < 0)
		_exit(1);
	if (has_uffd && (uffd_open(&uffd, UFFD_WAY_SYSCALL, 0) < 0 ||
			 uffd_register(uffd, ram, UFFD_MODE_MISSING | UFFD_MODE_MINOR, NULL) != 0))
		_exit(1);
	if (closes_fds) {
		close(mapper->ram);
		close(mapper->twin);
		close(mapper->file);
	}
	if (write(mapper->ready[1], "x", 1) != 1)
		_exit(1);
	for (;;)
		pause();
}

static void mapper_start(struct mapper *mapper, bool has_uffd, bool closes_fds)
{
	char byte;

	if (geteuid() != 0)
		unit_skip("needs root");
	mapper->ram = memfd_create("ram", MFD_CLOEXEC);
	mapper->twin = memfd_create("ram", MFD_CLOEXEC);
	snprintf(mapper->file_name, sizeof(mapper->file_name), LONG_NAME "%d", getpid());
	mapper->file = open(mapper->file_name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	ck_assert_int_ge(mapper->file, 0);
	ck_assert_int_eq(ftruncate(mapper->ram, LENGTH), 0);
	ck_assert_int_eq(ftruncate(mapper->twin, LENGTH), 0);
	ck_assert_int_eq(ftruncate(mapper->file, LENGTH), 0);
	ck_assert_int_eq(pipe2(mapper->ready, O_CLOEXEC), 0);
	mapper->pid = fork();
	ck_assert_int_ge(mapper->pid, 0);
	if (mapper->pid == 0)
		map_and_wait(mapper, has_uffd, closes_fds);
	unlink(mapper->file_name);
	close(mapper->ready[1]);
	ck_assert_int_eq(read(mapper->ready[0], &byte, 1), 1);
}

static void mapper_done(struct mapper *mapper)
{
	kill(mapper->pid, SIGKILL);
	ck_assert_int_eq(waitpid(mapper->pid, NULL, 0), mapper->pid);
	close(mapper->ready[0]);
	close(mapper->ram);
	close(mapper->twin);
	close(mapper->file);
}

static void find(pid_t pid, const char *match, struct process_memories *ret)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	int r = process_find_memories(pid, &match, match ? 1 : 0, ret, &refusal);

	ck_assert_msg(r == 0, "%s: %s", match ? match : "(all)",
		      json_string_value(json_object_get(refusal.parameters, "message")));
}

static void expect_no_memory(pid_t pid, const char *match, const char *words)
{
	_cleanup_(process_memories_done) struct process_memories memories = {};
	_cleanup_(refusal_done) struct refusal refusal = {};
	const char *message;

	ck_assert_int_eq(process_find_memories(pid, &match, match ? 1 : 0, &memories, &refusal),
			 -ECANCELED);
	ck_assert_str_eq(refusal.error, "io.ufd.guest.CannotAttach");
	message = json_string_value(json_object_get(refusal.parameters, "message"));
	ck_assert_msg(strstr(message, words) != NULL, "%s", message);
}

/* The memory of this file, and that our fd of it is good for reading and writing. */
static const struct process_memory *memory_of(const struct process_memories *memories, int file)
{
	struct stat expected;

	ck_assert_int_eq(fstat(file, &expected), 0);
	for (size_t i = 0; i < memories->n_memories; i++) {
		const struct process_memory *memory = &memories->memories[i];
		struct stat found;

		if (memory->inode != expected.st_ino || memory->device != expected.st_dev)
			continue;
		ck_assert_int_eq(fstat(memory->fd, &found), 0);
		ck_assert_uint_eq(found.st_ino, expected.st_ino);
		ck_assert_int_eq(fcntl(memory->fd, F_GETFL) & O_ACCMODE, O_RDWR);
		return memory;
	}
	ck_abort_msg("the memory was not found");
}

START_TEST(every_shared_writable_mapping_by_default)
{
	_cleanup_(process_memories_done) struct process_memories memories = {};
	const struct process_memory *memory;
	struct mapper mapper;

	mapper_start(&mapper, false, false);
	find(mapper.pid, NULL, &memories);
	ck_assert_uint_eq(memories.n_memories, 3);

	memory = memory_of(&memories, mapper.ram);
	ck_assert_int_eq(memory->kind, BACKING_SHMEM);
	ck_assert_uint_eq(memory->page_bytes, PAGE);
	ck_assert_uint_eq(memory->length_bytes, LENGTH);
	ck_assert_uint_eq(memory->n_mappings, 2);
	ck_assert_uint_eq(memory->mappings[0].range.length_bytes +
				  memory->mappings[1].range.length_bytes,
			  LENGTH + LENGTH / 2);
	memory = memory_of(&memories, mapper.twin);
	ck_assert_uint_eq(memory->n_mappings, 1);
	ck_assert_uint_eq(memory_of(&memories, mapper.file)->n_mappings, 1);

	for (size_t i = 0; i < 3; i++)
		for (size_t j = 0; j < i; j++)
			ck_assert_str_ne(memories.memories[i].name, memories.memories[j].name);
	mapper_done(&mapper);
}
END_TEST

static const struct {
	const char *match; /* with %lu: the inode of `ram` */
	size_t n_memories;
} matches[] = {
	{ "ram", 2 },	    { "/memfd:ram", 2 }, { "/memfd:ram (deleted)", 2 },
	{ "inode:%lu", 1 }, { "FILE", 1 },
};

START_TEST(a_match_finds_its_memories)
{
	_cleanup_(process_memories_done) struct process_memories memories = {};
	struct mapper mapper;
	char match[200];
	struct stat ram;

	mapper_start(&mapper, false, false);
	ck_assert_int_eq(fstat(mapper.ram, &ram), 0);
	snprintf(match, sizeof(match), matches[_i].match, (unsigned long)ram.st_ino);
	find(mapper.pid, strcmp(match, "FILE") == 0 ? mapper.file_name : match, &memories);
	if (strcmp(match, "FILE") == 0)
		memory_of(&memories, mapper.file);
	else
		memory_of(&memories, mapper.ram);
	/* The private mapping of `twin` bears the name too. */
	ck_assert_uint_eq(memories.n_memories,
			  matches[_i].n_memories + (matches[_i].n_memories == 2));
	mapper_done(&mapper);
}
END_TEST

START_TEST(anonymous_memory_is_found_by_size)
{
	_cleanup_(process_memories_done) struct process_memories memories = {};
	const struct process_memory *memory;
	struct mapper mapper;
	char match[64];

	mapper_start(&mapper, false, false);
	snprintf(match, sizeof(match), "size:%lu", (unsigned long)ANON_LENGTH);
	find(mapper.pid, match, &memories);
	ck_assert_uint_eq(memories.n_memories, 1);
	memory = &memories.memories[0];
	ck_assert_int_eq(memory->kind, BACKING_ANON);
	ck_assert_int_eq(memory->fd, -EBADF);
	ck_assert_uint_eq(memory->length_bytes, ANON_LENGTH);
	ck_assert_uint_eq(memory->page_bytes, PAGE);
	ck_assert_uint_eq(memory->mappings[0].offset_bytes, 0);
	mapper_done(&mapper);
}
END_TEST

START_TEST(a_private_mapping_of_a_memfd_is_private)
{
	_cleanup_(process_memories_done) struct process_memories memories = {};
	struct mapper mapper;
	char match[64];

	mapper_start(&mapper, false, false);
	snprintf(match, sizeof(match), "size:%lu", (unsigned long)(5 * PAGE));
	find(mapper.pid, match, &memories);
	ck_assert_uint_eq(memories.n_memories, 1);
	ck_assert_int_eq(memories.memories[0].kind, BACKING_PRIVATE);
	ck_assert_uint_eq(memories.memories[0].length_bytes, 5 * PAGE);
	mapper_done(&mapper);
}
END_TEST

static const struct {
	const char *match;
	const char *words;
} misses[] = {
	{ "rom", "matches `rom`" },
	{ "", "names no memory" },
	{ "inode:", "names no memory" },
	{ "inode:12x", "names no memory" },
	{ "size:-5", "names no memory" },
	{ "size:99999999999999999999999", "names no memory" },
	{ "size:12345", "matches `size:12345`" },
	{ "inode:0", "matches `inode:0`" },
	/* Long enough to be cut to what `FILE` is cut to, and yet another. */
	{ LONG_NAME "of-another-file", "matches" },
};

START_TEST(what_matches_nothing_is_refused)
{
	struct mapper mapper;

	mapper_start(&mapper, false, false);
	expect_no_memory(mapper.pid, misses[_i].match, misses[_i].words);
	mapper_done(&mapper);
}
END_TEST

/* The harness's shared page is inherited; MAP_SHARED | MAP_ANONYMOUS alone makes no guest. */
START_TEST(a_process_without_shared_memory_is_told_of_size)
{
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	expect_no_memory(pid, NULL, "size:BYTES");
	kill(pid, SIGKILL);
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
	expect_no_memory(pid, NULL, "no process");
}
END_TEST

START_TEST(another_userfaultfd_is_named)
{
	struct mapper mapper;

	if (!features_get()->may_syscall)
		unit_skip("userfaultfd(2) is not allowed");
	mapper_start(&mapper, true, false);
	expect_no_memory(mapper.pid, NULL, "another userfaultfd (missing minor)");
	expect_no_memory(mapper.pid, "ram", "another userfaultfd");
	mapper_done(&mapper);
}
END_TEST

/* For this test's process only: /proc/PID/map_files is closed to it. */
static void drop_capabilities(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	const int dropped[] = { CAP_SYS_ADMIN, CAP_CHECKPOINT_RESTORE };

	ck_assert_int_eq(syscall(SYS_capget, &header, data), 0);
	for (size_t i = 0; i < 2; i++)
		data[dropped[i] / 32].effective &= ~(1u << dropped[i] % 32);
	ck_assert_int_eq(syscall(SYS_capset, &header, data), 0);
}

START_TEST(without_the_capability_an_fd_of_the_process_will_do)
{
	_cleanup_(process_memories_done) struct process_memories memories = {};
	struct mapper mapper;

	mapper_start(&mapper, false, false);
	drop_capabilities();
	find(mapper.pid, "ram", &memories);
	memory_of(&memories, mapper.ram);
	memory_of(&memories, mapper.twin);
	mapper_done(&mapper);
}
END_TEST

START_TEST(without_either_the_capability_is_named)
{
	_cleanup_(process_memories_done) struct process_memories memories = {};
	struct mapper mapper;

	mapper_start(&mapper, false, true);
	find(mapper.pid, NULL, &memories);
	ck_assert_uint_eq(memories.n_memories, 3);
	drop_capabilities();
	expect_no_memory(mapper.pid, "ram", "CAP_CHECKPOINT_RESTORE");
	mapper_done(&mapper);
}
END_TEST

/* Its memory appears once it has started up. */
START_TEST(the_memory_of_a_qemu_is_found)
{
	_cleanup_(process_memories_done) struct process_memories memories = {};
	uint64_t deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC;
	struct qemu qemu;
	struct stat ram;

	qemu_start(&qemu, NULL);
	while (stat(qemu.memory, &ram) < 0) {
		ck_assert_uint_lt(clock_now_ns(), deadline_ns);
		nanosleep(&(struct timespec){ .tv_nsec = 5 * NSEC_PER_MSEC }, NULL);
	}
	for (;;) {
		_cleanup_(refusal_done) struct refusal refusal = {};

		if (process_find_memories(qemu.pid, NULL, 0, &memories, &refusal) == 0)
			break;
		ck_assert_uint_lt(clock_now_ns(), deadline_ns);
		nanosleep(&(struct timespec){ .tv_nsec = 5 * NSEC_PER_MSEC }, NULL);
	}
	ck_assert_uint_eq(memories.n_memories, 1);
	ck_assert_uint_eq(memories.memories[0].inode, ram.st_ino);
	ck_assert_uint_eq(memories.memories[0].length_bytes, QEMU_MEMORY_MIB * MIB);
	ck_assert_uint_eq(memories.memories[0].n_mappings, 1);
	qemu_stop(&qemu);
}
END_TEST

int main(void)
{
	return unit_run("process-memory",
			(struct unit_test[]){
				UNIT(every_shared_writable_mapping_by_default),
				UNIT_TABLE(a_match_finds_its_memories, matches),
				UNIT(anonymous_memory_is_found_by_size),
				UNIT(a_private_mapping_of_a_memfd_is_private),
				UNIT_TABLE(what_matches_nothing_is_refused, misses),
				UNIT(a_process_without_shared_memory_is_told_of_size),
				UNIT(another_userfaultfd_is_named),
				UNIT(without_the_capability_an_fd_of_the_process_will_do),
				UNIT(without_either_the_capability_is_named),
				UNIT(the_memory_of_a_qemu_is_found),
				{},
			});
}
