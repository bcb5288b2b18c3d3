/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The driver for QEMU against an unmodified QEMU, and what it says when QEMU will not. */
#include "driver/qmp.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/units.h"
#include "image/image-reader.h"
#include "snapshots/restore.h"
#include "snapshots/save.h"
#include "support/qemu.h"
#include "support/unit.h"

#define MEMORY_BYTES (QEMU_MEMORY_MIB * MIB)

static const char *const incoming[] = { "-incoming", "defer", NULL };

static const char *words(const struct refusal *refusal)
{
	const char *message = json_string_value(json_object_get(refusal->parameters, "message"));

	return message ? message : "nothing refused";
}

static struct qmp *connect_to(const struct qemu *qemu)
{
	struct refusal refusal = {};
	struct qmp *qmp = NULL;

	ck_assert_msg(qmp_connect(&qmp, qemu->monitor, 0, &refusal) == 0, "%s", words(&refusal));
	return qmp;
}

static void assert_status(struct qmp *qmp, const char *name)
{
	struct refusal refusal = {};
	struct qmp_status status;

	ck_assert_msg(!qmp_query_status(qmp, &status, &refusal), "%s", words(&refusal));
	ck_assert_str_eq(status.name, name);
}

static void assert_refused(struct refusal *refusal, int r, const char *error, const char *part)
{
	ck_assert_int_eq(r, -ECANCELED);
	ck_assert_str_eq(refusal->error, error);
	ck_assert_msg(strstr(words(refusal), part), "'%s' lacks '%s'", words(refusal), part);
	refusal_done(refusal);
}

static bool capability(struct qmp *qmp, const char *name)
{
	struct refusal refusal = {};
	json_t *answer = NULL, *entry;
	bool is_on = false;
	size_t i;

	ck_assert_int_eq(
		qmp_call(qmp, "query-migrate-capabilities", NULL, -EBADF, &answer, &refusal), 0);
	json_array_foreach(
		answer, i,
		entry) if (!strcmp(json_string_value(json_object_get(entry, "capability")), name))
		is_on = json_is_true(json_object_get(entry, "state"));
	json_decref(answer);
	return is_on;
}

START_TEST(connecting_tells_the_process)
{
	_cleanup_(qemu_stop) struct qemu qemu;
	_cleanup_(qmp_freep) struct qmp *qmp = NULL;

	qemu_start(&qemu, NULL);
	qmp = connect_to(&qemu);
	ck_assert_int_eq(qmp_pid(qmp), qemu.pid);
	ck_assert_int_ge(qmp_pidfd(qmp), 0);
}
END_TEST

START_TEST(pause_and_resume_say_what_was)
{
	_cleanup_(qemu_stop) struct qemu qemu;
	_cleanup_(qmp_freep) struct qmp *qmp = NULL;
	struct refusal refusal = {};
	struct driver *driver;
	bool was_running;

	qemu_start(&qemu, NULL);
	qmp = connect_to(&qemu);
	driver = qmp_driver(qmp);
	ck_assert_int_eq(driver->ops->pause(driver, &was_running, &refusal), 0);
	ck_assert(was_running);
	assert_status(qmp, "paused");
	ck_assert_int_eq(driver->ops->pause(driver, &was_running, &refusal), 0);
	ck_assert(!was_running);
	ck_assert_int_eq(driver->ops->resume(driver, &refusal), 0);
	assert_status(qmp, "running");
}
END_TEST

static struct snapshot_progress progress;

static struct snapshot_request request_of(const struct qemu *qemu, const char *directory)
{
	return (struct snapshot_request){ .qmp = qemu->monitor,
					  .directory = directory,
					  .progress = &progress,
					  .max_pause_ns = SNAPSHOT_MAX_PAUSE_NS };
}

/* What `snapshot save` writes of @qemu, into its own directory. Its monitor has one client at a time. */
static void save(const struct qemu *qemu, struct qmp **qmp, char *directory, size_t n_directory)
{
	_cleanup_(closep) int memory = open(qemu->memory, O_RDWR | O_CLOEXEC);
	struct snapshot_request request = request_of(qemu, directory);
	struct snapshot_saved saved;
	struct refusal refusal = {};

	/* However early this is, there is something to save. */
	ck_assert_int_eq(pwrite(memory, "saved", 5, MEMORY_BYTES / 2), 5);
	snprintf(directory, n_directory, "%s/saved", qemu->directory);
	*qmp = qmp_free(*qmp);
	ck_assert_msg(!snapshot_save(&request, &saved, &refusal), "%s", words(&refusal));
	*qmp = connect_to(qemu);
	ck_assert_uint_eq(saved.length_bytes, MEMORY_BYTES);
	ck_assert_uint_gt(saved.populated_bytes, 0);
	ck_assert_uint_gt(saved.state_bytes, 10000);
	ck_assert_str_eq(saved.consumer, "");
	snapshot_saved_done(&saved);
}

static void remove_saved(const char *directory)
{
	static const char *const names[] = { SNAPSHOT_MANIFEST, SNAPSHOT_IMAGE, SNAPSHOT_STATE };
	char path[256];

	for (size_t i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "%s/%s", directory, names[i]);
		unlink(path);
	}
	rmdir(directory);
}

/* The saved memory, a MiB at a time. */
struct saved_memory {
	struct image *image;
	struct image_cursor *cursor;
};

static void saved_open(struct saved_memory *saved, const char *directory)
{
	const char *error = "";
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", directory, SNAPSHOT_IMAGE);
	ck_assert_msg(!image_open(&saved->image, path, -1, NULL, &error), "%s", error);
	ck_assert_int_eq(image_cursor_new(&saved->cursor, saved->image), 0);
	ck_assert_ptr_nonnull(strstr(image_memory(saved->image, 0)->name, "memory"));
}

static void saved_read(const struct saved_memory *saved, uint64_t at, void *bytes)
{
	const char *error = "";

	ck_assert_msg(!image_read_pages(saved->cursor, 0, at / 4096, MIB / 4096, bytes, &error),
		      "%s", error);
}

static void saved_close(struct saved_memory *saved)
{
	image_cursor_free(saved->cursor);
	image_unref(saved->image);
}

/* The bytes of the image, put into the memory of a QEMU that waits. */
static void copy_memory(const char *directory, const struct qemu *to)
{
	_cleanup_(closep) int target = open(to->memory, O_WRONLY | O_CLOEXEC);
	_cleanup_(saved_close) struct saved_memory saved;
	static char bytes[MIB];

	saved_open(&saved, directory);
	for (uint64_t at = 0; at < MEMORY_BYTES; at += sizeof(bytes)) {
		saved_read(&saved, at, bytes);
		ck_assert_int_eq(pwrite(target, bytes, sizeof(bytes), at), sizeof(bytes));
	}
}

static void assert_same_memory(const char *directory, const struct qemu *qemu)
{
	_cleanup_(closep) int memory = open(qemu->memory, O_RDONLY | O_CLOEXEC);
	_cleanup_(saved_close) struct saved_memory saved;
	static char ours[MIB], theirs[MIB];

	saved_open(&saved, directory);
	for (uint64_t at = 0; at < MEMORY_BYTES; at += MIB) {
		saved_read(&saved, at, ours);
		ck_assert_int_eq(pread(memory, theirs, MIB, at), MIB);
		ck_assert_msg(!memcmp(ours, theirs, MIB), "MiB %d differs", (int)(at / MIB));
	}
}

static const char *const plain[] = { NULL };
static const char *const sandboxed[] = {
	"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny", NULL
};
static const struct {
	const char *what;
	const char *const *options;
	bool is_paused;
} machines[] = {
	{ "running", plain, false },
	{ "paused", plain, true },
	{ "sandboxed", sandboxed, false },
};

START_TEST(a_saved_machine_runs_on_in_another_qemu)
{
	_cleanup_(qemu_stop) struct qemu from, to = {};
	_cleanup_(qmp_freep) struct qmp *source = NULL, *target = NULL;
	const char *options[8] = { "-incoming", "defer" };
	struct refusal refusal = {};
	uint64_t running_ns = 0;
	char directory[128];
	bool was_running;

	for (size_t i = 0; machines[_i].options[i]; i++)
		options[2 + i] = machines[_i].options[i];
	qemu_start(&from, machines[_i].options);
	source = connect_to(&from);
	if (machines[_i].is_paused)
		ck_assert_int_eq(
			qmp_driver(source)->ops->pause(qmp_driver(source), &was_running, &refusal),
			0);
	save(&from, &source, directory, sizeof(directory));
	assert_status(source, machines[_i].is_paused ? "postmigrate" : "running");
	ck_assert(!capability(source, "x-ignore-shared"));
	if (machines[_i].is_paused)
		assert_same_memory(directory, &from);

	qemu_start(&to, options);
	target = connect_to(&to);
	copy_memory(directory, &to);
	assert_status(target, "inmigrate");
	ck_assert_msg(
		!snapshot_load_and_run(qmp_driver(target), directory, false, &running_ns, &refusal),
		"%s", words(&refusal));
	ck_assert_uint_gt(running_ns, 0);
	assert_status(target, "running");
	ck_assert(!capability(target, "x-ignore-shared"));
	remove_saved(directory);
}
END_TEST

START_TEST(a_snapshot_is_never_written_over_another)
{
	_cleanup_(qemu_stop) struct qemu qemu;
	_cleanup_(qmp_freep) struct qmp *qmp = NULL;
	_cleanup_(snapshot_manifest_done) struct snapshot_manifest manifest = {};
	struct snapshot_request request;
	struct snapshot_saved saved;
	struct refusal refusal = {};
	char directory[128];

	qemu_start(&qemu, NULL);
	qmp = connect_to(&qemu);
	save(&qemu, &qmp, directory, sizeof(directory));
	request = request_of(&qemu, directory);
	assert_refused(&refusal, snapshot_save(&request, &saved, &refusal),
		       "io.ufd.guest.BadSnapshot", "holds a snapshot already");
	ck_assert_msg(!snapshot_read_manifest(directory, &manifest, &refusal), "%s",
		      words(&refusal));
	ck_assert_ptr_nonnull(strstr(manifest.memories[0].name, "memory"));
	ck_assert_uint_eq(manifest.memories[0].length_bytes, MEMORY_BYTES);
	remove_saved(directory);
}
END_TEST

START_TEST(a_save_that_fails_leaves_the_guest_running_and_nothing_behind)
{
	_cleanup_(qemu_stop) struct qemu qemu;
	_cleanup_(qmp_freep) struct qmp *qmp = NULL;
	const struct rlimit small = { 768 * KIB, RLIM_INFINITY };
	_cleanup_(closep) int memory = -EBADF;
	static char bytes[MIB];
	struct snapshot_request request;
	struct snapshot_saved saved;
	struct refusal refusal = {};
	char directory[128];

	qemu_start(&qemu, NULL);
	snprintf(directory, sizeof(directory), "%s/saved", qemu.directory);
	request = request_of(&qemu, directory);
	qmp = connect_to(&qemu); /* QEMU listens before it makes its memory, and answers after */
	assert_status(qmp, "running");
	qmp = qmp_free(qmp);
	memory = open(qemu.memory, O_WRONLY | O_CLOEXEC);
	ck_assert_int_ge(memory, 0);
	memset(bytes, 'x', sizeof(bytes));
	ck_assert_int_eq(pwrite(memory, bytes, MIB, MEMORY_BYTES / 2), MIB);
	signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &small),
			 0); /* devices or memory, one does not fit */
	assert_refused(&refusal, snapshot_save(&request, &saved, &refusal),
		       "io.ufd.guest.BadSnapshot", "File too large");
	qmp = connect_to(&qemu);
	assert_status(qmp, "running");
	ck_assert_int_eq(access(directory, F_OK), -1);
}
END_TEST

START_TEST(a_guest_that_runs_already_takes_no_state)
{
	_cleanup_(qemu_stop) struct qemu qemu;
	_cleanup_(qmp_freep) struct qmp *qmp = NULL;
	struct refusal refusal = {};

	qemu_start(&qemu, NULL);
	qmp = connect_to(&qemu);
	assert_refused(&refusal, qmp_driver(qmp)->ops->load(qmp_driver(qmp), -EBADF, &refusal),
		       "io.ufd.guest.DriverFailed", "-incoming defer");
}
END_TEST

START_TEST(state_that_is_garbage_is_refused)
{
	_cleanup_(qemu_stop) struct qemu qemu;
	_cleanup_(qmp_freep) struct qmp *qmp = NULL;
	_cleanup_(closep) int garbage = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	struct refusal refusal = {};

	qemu_start(&qemu, incoming);
	qmp = connect_to(&qemu);
	/* This version ends itself then, others report a failed migration. */
	assert_refused(&refusal, qmp_driver(qmp)->ops->load(qmp_driver(qmp), garbage, &refusal),
		       "io.ufd.guest.DriverFailed", "QEMU (pid");
}
END_TEST

START_TEST(a_refusal_carries_the_words_of_qemu)
{
	_cleanup_(qemu_stop) struct qemu qemu;
	_cleanup_(qmp_freep) struct qmp *qmp = NULL;
	struct refusal refusal = {};

	qemu_start(&qemu, NULL);
	qmp = connect_to(&qemu);
	assert_refused(&refusal, qmp_call(qmp, "no-such-thing", NULL, -EBADF, NULL, &refusal),
		       "io.ufd.guest.DriverFailed", "The command no-such-thing has not been found");
	assert_status(qmp, "running");
}
END_TEST

START_TEST(a_hung_monitor_costs_its_deadline_and_no_more)
{
	_cleanup_(qemu_stop) struct qemu qemu;
	_cleanup_(qmp_freep) struct qmp *qmp = NULL;
	struct refusal refusal = {};

	qemu_start(&qemu, NULL);
	qmp = connect_to(&qemu);
	qmp_driver(qmp)->call_timeout_ns = 100 * NSEC_PER_MSEC;
	kill(qemu.pid, SIGSTOP);
	assert_refused(&refusal, qmp_call(qmp, "query-version", NULL, -EBADF, NULL, &refusal),
		       "io.ufd.guest.DriverFailed", "did not answer in time while query-version");

	/* Its late answer comes before the one asked for now, and is not taken for it. */
	kill(qemu.pid, SIGCONT);
	qmp_driver(qmp)->call_timeout_ns = 20 * NSEC_PER_SEC;
	assert_status(qmp, "running");
}
END_TEST

START_TEST(a_monitor_in_use_is_named_as_such)
{
	_cleanup_(qemu_stop) struct qemu qemu;
	_cleanup_(qmp_freep) struct qmp *first = NULL, *second = NULL;
	struct refusal refusal = {};

	qemu_start(&qemu, NULL);
	first = connect_to(&qemu);
	assert_refused(&refusal, qmp_connect(&second, qemu.monitor, 100 * NSEC_PER_MSEC, &refusal),
		       "io.ufd.guest.DriverFailed", "is another one connected");
	ck_assert_ptr_null(second);
}
END_TEST

START_TEST(a_dead_qemu_is_noticed_at_once)
{
	_cleanup_(qemu_stop) struct qemu qemu;
	_cleanup_(qmp_freep) struct qmp *qmp = NULL;
	struct refusal refusal = {};

	qemu_start(&qemu, NULL);
	qmp = connect_to(&qemu);
	kill(qemu.pid, SIGKILL);
	waitpid(qemu.pid, NULL, 0);
	qemu.pid = 0;
	assert_refused(&refusal, qmp_call(qmp, "query-version", NULL, -EBADF, NULL, &refusal),
		       "io.ufd.guest.DriverFailed", "closed its monitor");
}
END_TEST

static const char *const rivals[] = { "postcopy-ram", "background-snapshot" };

START_TEST(a_qemu_that_pages_itself_is_refused)
{
	_cleanup_(qemu_stop) struct qemu qemu;
	_cleanup_(qmp_freep) struct qmp *qmp = NULL;
	struct refusal refusal = {};

	qemu_start(&qemu, NULL);
	qmp = connect_to(&qemu);
	ck_assert_int_eq(qmp_check_pageable(qmp, &refusal), 0);
	ck_assert_msg(!qmp_call(qmp, "migrate-set-capabilities",
				json_pack("{s:[{s:s,s:b}]}", "capabilities", "capability",
					  rivals[_i], "state", 1),
				-EBADF, NULL, &refusal),
		      "%s", words(&refusal));
	assert_refused(&refusal, qmp_check_pageable(qmp, &refusal), "io.ufd.guest.CannotAttach",
		       rivals[_i]);
}
END_TEST

/* How many fds of @pid show @path. */
static int count_fds(pid_t pid, const char *path)
{
	char link[64], target[256];
	int n = 0;

	for (int fd = 0; fd < 256; fd++) {
		ssize_t length;

		snprintf(link, sizeof(link), "/proc/%d/fd/%d", pid, fd);
		length = readlink(link, target, sizeof(target) - 1);
		if (length < 0)
			continue;
		target[length] = '\0';
		n += !strcmp(target, path);
	}
	return n;
}

START_TEST(an_fd_can_be_pushed_in_and_dropped)
{
	_cleanup_(qemu_stop) struct qemu qemu;
	_cleanup_(qmp_freep) struct qmp *qmp = NULL;
	_cleanup_(closep) int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	struct refusal refusal = {};

	qemu_start(&qemu, NULL);
	qmp = connect_to(&qemu);
	ck_assert_int_eq(count_fds(qemu.pid, "/dev/zero"), 0);
	ck_assert_msg(!qmp_push_fd(qmp, "ufd-device", fd, &refusal), "%s", words(&refusal));
	ck_assert_int_eq(count_fds(qemu.pid, "/dev/zero"), 1);
	ck_assert_msg(!qmp_drop_fd(qmp, "ufd-device", &refusal), "%s", words(&refusal));
	ck_assert_int_eq(count_fds(qemu.pid, "/dev/zero"), 0);
}
END_TEST

int main(void)
{
	return unit_run("qmp",
			(struct unit_test[]){
				UNIT(connecting_tells_the_process),
				UNIT(pause_and_resume_say_what_was),
				UNIT_TABLE(a_saved_machine_runs_on_in_another_qemu, machines),
				UNIT(a_snapshot_is_never_written_over_another),
				UNIT(a_save_that_fails_leaves_the_guest_running_and_nothing_behind),
				UNIT(a_guest_that_runs_already_takes_no_state),
				UNIT(state_that_is_garbage_is_refused),
				UNIT(a_refusal_carries_the_words_of_qemu),
				UNIT(a_hung_monitor_costs_its_deadline_and_no_more),
				UNIT(a_monitor_in_use_is_named_as_such),
				UNIT(a_dead_qemu_is_noticed_at_once),
				UNIT_TABLE(a_qemu_that_pages_itself_is_refused, rivals),
				UNIT(an_fd_can_be_pushed_in_and_dropped),
				{},
			});
}
