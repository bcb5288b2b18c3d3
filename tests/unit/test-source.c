/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What holds for every source: bounds, references, answers; zero, backing, callbacks, and SPECs. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel/uring.h"
#include "source/kinds.h"
#include "source/spec.h"
#include "support/unit.h"

/* No source of this test goes to a ring. */
bool uring_add_read(struct uring *ring, int fd, void *buffer, uint32_t length_bytes,
		    uint64_t offset, bool may_wait, uint64_t token)
{
	ck_abort_msg("read through a ring");
	return false;
}

START_TEST(zero_answers_without_touching_the_buffer)
{
	_cleanup_(source_unrefp) struct source *source = NULL;
	struct source_request request = { .offset = UINT64_C(1) << 60, .length_bytes = 4096 };
	uint64_t length = 0;

	ck_assert_int_eq(source_new_zero(&source), 0);
	ck_assert(source->is_zero && !source->is_backing);
	ck_assert_uint_eq(source_length(source), UINT64_MAX);
	ck_assert_int_eq(source_read(source, &request), SOURCE_ZERO);
	ck_assert_int_eq(source_extent(source, 5, 1000, &length), SOURCE_ZERO);
	ck_assert_uint_eq(length, 1000);
}
END_TEST

START_TEST(backing_is_all_data)
{
	_cleanup_(source_unrefp) struct source *source = NULL;
	uint64_t length = 0;

	ck_assert_int_eq(source_new_backing(&source), 0);
	ck_assert(source->is_backing && !source->is_zero);
	ck_assert_int_eq(source_extent(source, 5, 1000, &length), 0);
	ck_assert_uint_eq(length, 1000);
}
END_TEST

/* ---- callbacks ------------------------------------------------------------------------------- */

/* A source of 10,000 bytes that does as told. */
struct embedder {
	int answer; /* of read */
	int extent_answer;
	uint64_t extent_length;
	uint64_t offset, length; /* last asked for */
	struct ufd_read *read;
	unsigned int n_reads, n_frees;
};

static int embedder_read(void *userdata, uint64_t offset, void *buffer, uint64_t length,
			 struct ufd_read *read)
{
	struct embedder *embedder = userdata;

	embedder->n_reads++;
	embedder->offset = offset;
	embedder->length = length;
	embedder->read = read;
	if (embedder->answer == UFD_SOURCE_DATA)
		memset(buffer, 'd', length);
	return embedder->answer;
}

static int embedder_extent(void *userdata, uint64_t offset, uint64_t length, uint64_t *ret_length)
{
	struct embedder *embedder = userdata;

	*ret_length = embedder->extent_length;
	return embedder->extent_answer;
}

static void embedder_free(void *userdata)
{
	((struct embedder *)userdata)->n_frees++;
}

static struct source *new_callback(struct embedder *embedder)
{
	UFD_OPTS(ufd_source_ops, ops, .length = 10000, .read = embedder_read,
		 .extent = embedder_extent, .free = embedder_free);
	struct source *source = NULL;

	ck_assert_int_eq(source_new_callback(&source, &ops, embedder), 0);
	return source;
}

static const struct {
	int answer, expected;
} answers[] = {
	{ UFD_SOURCE_DATA, 0 },
	{ UFD_SOURCE_ZERO, SOURCE_ZERO },
	{ UFD_SOURCE_PENDING, SOURCE_PENDING },
	{ -EIO, -EIO },
	{ 3, -EINVAL }, /* our own SOURCE_FULL, which an embedder must not say */
	{ 99, -EINVAL },
};

START_TEST(a_callback_gives_the_answer)
{
	struct embedder embedder = { .answer = answers[_i].answer };
	struct source *source = new_callback(&embedder);
	unsigned char buffer[100] = "";
	struct source_request request = {
		.offset = 9900, .length_bytes = 100, .buffer = buffer, .is_in_ring = true
	};

	ck_assert_uint_eq(source_length(source), 10000);
	ck_assert_int_eq(source_read(source, &request), answers[_i].expected);
	ck_assert_uint_eq(embedder.offset, 9900);
	ck_assert_uint_eq(embedder.length, 100);
	ck_assert_ptr_eq(embedder.read, &request);
	ck_assert(!request.is_in_ring);
	ck_assert_int_eq(buffer[99], answers[_i].answer == UFD_SOURCE_DATA ? 'd' : 0);

	source_ref(source);
	source_unref(source);
	ck_assert_uint_eq(embedder.n_frees, 0);
	ck_assert_ptr_null(source_unref(source));
	ck_assert_uint_eq(embedder.n_frees, 1);
}
END_TEST

static const struct {
	uint64_t offset, length;
	bool is_inside;
} bounds[] = {
	{ 0, 10000, true },	  { 9999, 1, true },
	{ 9999, 2, false },	  { 10000, 1, false },
	{ 10001, 1, false },	  { 0, 10001, false },
	{ UINT64_MAX, 1, false }, { UINT64_MAX - 99, 100, false },
};

START_TEST(bytes_behind_the_end_are_short_and_never_asked_for)
{
	struct embedder embedder = { .answer = UFD_SOURCE_ZERO };
	_cleanup_(source_unrefp) struct source *source = new_callback(&embedder);
	struct source_request request = { .offset = bounds[_i].offset,
					  .length_bytes = bounds[_i].length };

	ck_assert_int_eq(source_read(source, &request),
			 bounds[_i].is_inside ? SOURCE_ZERO : SOURCE_SHORT);
	ck_assert_uint_eq(embedder.n_reads, bounds[_i].is_inside);
}
END_TEST

static const struct {
	const char *what;
	int answer;
	uint64_t length; /* as the callback says */
	uint64_t offset;
	int expected;
	uint64_t expected_length;
} extents[] = {
	/* each asks for 1,000 bytes */
	{ "zero", UFD_SOURCE_ZERO, 10, 0, SOURCE_ZERO, 10 },
	{ "data", UFD_SOURCE_DATA, 10, 0, 0, 10 },
	{ "more than asked for", UFD_SOURCE_ZERO, 5000, 0, SOURCE_ZERO, 1000 },
	{ "more than there is", UFD_SOURCE_ZERO, 5000, 9500, SOURCE_ZERO, 500 },
	{ "nothing", UFD_SOURCE_ZERO, 0, 0, 0, 1000 },
	{ "an error", -EIO, 10, 0, 0, 1000 },
	{ "nonsense", 17, 10, 0, 0, 10 },
	{ "behind the end", UFD_SOURCE_ZERO, 10, 10000, 0, 1000 },
};

START_TEST(an_extent_is_never_empty_never_too_long_and_zero_only_if_said)
{
	struct embedder embedder = { .extent_answer = extents[_i].answer,
				     .extent_length = extents[_i].length };
	_cleanup_(source_unrefp) struct source *source = new_callback(&embedder);
	uint64_t length = 0;

	ck_assert_msg(source_extent(source, extents[_i].offset, 1000, &length) ==
			      extents[_i].expected,
		      "%s", extents[_i].what);
	ck_assert_uint_eq(length, extents[_i].expected_length);
}
END_TEST

START_TEST(a_source_without_extents_and_free_is_all_data)
{
	UFD_OPTS(ufd_source_ops, ops, .length = 100, .read = embedder_read);
	struct embedder embedder = {};
	struct source *source = NULL;
	uint64_t length = 0;

	ck_assert_int_eq(source_new_callback(&source, &ops, &embedder), 0);
	ck_assert_int_eq(source_extent(source, 0, 1000, &length), 0);
	ck_assert_uint_eq(length, 100);
	source_unref(source);
}
END_TEST

START_TEST(ops_that_cannot_be_are_refused)
{
	UFD_OPTS(ufd_source_ops, no_length, .read = embedder_read);
	UFD_OPTS(ufd_source_ops, no_read, .length = 1);
	struct ufd_source_ops no_size = { .length = 1, .read = embedder_read };
	struct {
		struct ufd_source_ops known;
		uint64_t newer;
	} newer = { { sizeof(newer), 1, embedder_read }, 1 };
	struct source *source = NULL;

	ck_assert_int_eq(source_new_callback(&source, NULL, NULL), -EINVAL);
	ck_assert_int_eq(source_new_callback(&source, &no_length, NULL), -EINVAL);
	ck_assert_int_eq(source_new_callback(&source, &no_read, NULL), -EINVAL);
	ck_assert_int_eq(source_new_callback(&source, &no_size, NULL), -EINVAL);
	ck_assert_int_eq(source_new_callback(&source, &newer.known, NULL), -E2BIG);
	ck_assert_ptr_null(source);
	newer.newer = 0;
	ck_assert_int_eq(source_new_callback(&source, &newer.known, NULL), 0);
	source_unref(source);
}
END_TEST

static int completed_with;

static void on_complete(struct source_request *request, int answer)
{
	completed_with = answer;
}

static const struct {
	int answer, expected;
} completions[] = {
	{ UFD_SOURCE_DATA, 0 },
	{ UFD_SOURCE_ZERO, SOURCE_ZERO },
	{ SOURCE_CHANGED, SOURCE_CHANGED },
	{ SOURCE_SHORT, SOURCE_SHORT },
	{ -EIO, -EIO },
	{ SOURCE_PENDING, -EINVAL },
	{ SOURCE_FULL, -EINVAL },
	{ 77, -EINVAL },
};

START_TEST(a_completion_is_final)
{
	struct source_request request = { .on_complete = on_complete };

	completed_with = 12345;
	source_complete(&request, completions[_i].answer);
	ck_assert_int_eq(completed_with, completions[_i].expected);
}
END_TEST

static void *hold_and_let_go(void *argument)
{
	for (unsigned int i = 0; i < 100000; i++) {
		source_ref(argument);
		source_unref(argument);
	}
	source_unref(argument);
	return NULL;
}

START_TEST(the_last_of_many_threads_frees)
{
	struct embedder embedder = {};
	struct source *source = new_callback(&embedder);
	pthread_t threads[2];

	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(
			pthread_create(&threads[i], NULL, hold_and_let_go, source_ref(source)), 0);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	ck_assert_uint_eq(embedder.n_frees, 0);
	source_unref(source);
	ck_assert_uint_eq(embedder.n_frees, 1);
}
END_TEST

/* ---- SPEC ------------------------------------------------------------------------------------ */

/* DIR stands for a directory with `image`, `a,b` and `a,` of 8,192 bytes each. FD is an open image.
 */
enum { NO_FD, FD };
static const struct {
	const char *spec;
	int fd;
	int result;
	uint64_t length;      /* of the source */
	const char *mentions; /* in the error text */
} specs[] = {
	{ "zero", NO_FD, 0, UINT64_MAX },
	{ "backing", NO_FD, 0, UINT64_MAX },
	{ "file:DIR/image", NO_FD, 0, 8192 },
	{ "file:DIR/image,offset=4096", NO_FD, 0, 4096 },
	{ "file:DIR/image,offset=4K", NO_FD, 0, 4096 },
	{ "file:DIR/image,offset=0x1000", NO_FD, 0, 4096 },
	{ "file:DIR/image,offset=0", NO_FD, 0, 8192 },
	{ "file:DIR/a,,b", NO_FD, 0, 8192 },
	{ "file:DIR/a,,", NO_FD, 0, 8192 },
	{ "file:DIR/a,,,offset=0xfff", NO_FD, 0, 8192 - 0xfff },
	{ "file:", FD, 0, 8192 },
	{ "file:,offset=1K", FD, 0, 7168 },

	{ "", NO_FD, -EINVAL, 0, "zero, backing" },
	{ "zeros", NO_FD, -EINVAL, 0, "'zeros'" },
	{ "FILE:DIR/image", NO_FD, -EINVAL, 0, "'FILE:" },
	{ "file:", NO_FD, -EINVAL, 0, "needs an open file" },
	{ "file:DIR/image", FD, -EINVAL, 0, "both" },
	{ "file:DIR/none", NO_FD, -ENOENT, 0, "/none: No such file" },
	{ "file:DIR", NO_FD, -EINVAL, 0, "no file or block device" },
	{ "file:DIR/fifo", NO_FD, -EINVAL, 0, "/fifo" },
	{ "file:DIR/image,offset=8K", NO_FD, -EINVAL, 0, "byte 8192" },
	{ "file:DIR/a,b", NO_FD, -EINVAL, 0, "',,'" },
	{ "file:DIR/image,", NO_FD, -EINVAL, 0, "unknown option ''" },
	{ "file:DIR/image,size=1", NO_FD, -EINVAL, 0, "'size=1'" },
	{ "file:DIR/image,offset=", NO_FD, -EINVAL, 0, "no offset" },
	{ "file:DIR/image,offset=-1", NO_FD, -EINVAL, 0, "'-1'" },
	{ "file:DIR/image,offset=+1", NO_FD, -EINVAL, 0, "'+1'" },
	{ "file:DIR/image,offset= 1", NO_FD, -EINVAL, 0, "no offset" },
	{ "file:DIR/image,offset=1k", NO_FD, -EINVAL, 0, "no offset" },
	{ "file:DIR/image,offset=1KB", NO_FD, -EINVAL, 0, "no offset" },
	{ "file:DIR/image,offset=0x", NO_FD, -EINVAL, 0, "no offset" },
	{ "file:DIR/image,offset=4194305G", NO_FD, -EINVAL, 0, "no offset" },
	{ "file:DIR/image,offset=17179869184G", NO_FD, -EINVAL, 0, "no offset" },
	{ "file:DIR/image,offset=99999999999999999999", NO_FD, -EINVAL, 0, "no offset" },
	{ "file:DIR/image,offset=0,offset=0", NO_FD, -EINVAL, 0, "no offset" },
};

static char directory[64];

static void make_file(const char *name)
{
	_cleanup_(closep) int fd = -EBADF;
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, 8192), 0);
}

static void remove_file(const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	ck_assert_int_eq(unlink(path), 0);
}

static void make_directory(void)
{
	char fifo[128];

	strcpy(directory, "/tmp/test-source-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(directory));
	snprintf(fifo, sizeof(fifo), "%s/fifo", directory);
	ck_assert_int_eq(mkfifo(fifo, 0600), 0);
	make_file("image");
	make_file("a,b");
	make_file("a,");
}

static void remove_directory(void)
{
	remove_file("fifo");
	remove_file("image");
	remove_file("a,b");
	remove_file("a,");
	ck_assert_int_eq(rmdir(directory), 0);
}

/* @spec with the directory's name for DIR. */
static void name_directory(const char *spec, char text[256])
{
	const char *at = strstr(spec, "DIR");

	if (at)
		snprintf(text, 256, "%.*s%s%s", (int)(at - spec), spec, directory, at + 3);
	else
		snprintf(text, 256, "%s", spec);
}

START_TEST(a_spec_opens_a_source_or_says_what_is_wrong)
{
	_cleanup_(source_unrefp) struct source *source = NULL;
	_cleanup_(closep) int fd = -EBADF;
	const char *error = "";
	char text[256];
	int r;

	make_directory();
	if (specs[_i].fd == FD) {
		name_directory("DIR/image", text);
		fd = open(text, O_RDONLY | O_CLOEXEC);
		ck_assert_int_ge(fd, 0);
	}
	name_directory(specs[_i].spec, text);
	r = source_open(&source, text, fd < 0 ? -1 : fd, &error);
	remove_directory();

	ck_assert_msg(r == specs[_i].result, "%s: %d (%s)", specs[_i].spec, r, error);
	ck_assert((source != NULL) == (r == 0));
	if (r)
		ck_assert_msg(strstr(error, specs[_i].mentions), "%s: %s", specs[_i].spec, error);
	else
		ck_assert_uint_eq(source_length(source), specs[_i].length);
}
END_TEST

START_TEST(a_path_has_an_end)
{
	static char spec[10000];
	struct source *source = NULL;
	const char *error = NULL;

	memset(spec, 'x', sizeof(spec) - 1);
	memcpy(spec, "file:", 5);
	ck_assert_int_eq(source_open(&source, spec, -1, &error), -EINVAL);
	ck_assert_ptr_nonnull(strstr(error, "longer"));
	ck_assert_int_eq(source_open(&source, spec + 5, -1, NULL), -EINVAL);
}
END_TEST

static const struct {
	const char *spec;
	const char *again; /* NULL: it cannot be made without its file */
	uint64_t length;
} reopened[] = {
	{ "zero", "zero", UINT64_MAX },
	{ "backing", "backing", UINT64_MAX },
	{ "file:", NULL, 8192 },
	{ "file:,offset=4K", NULL, 4096 },
	{ "file:/nowhere/any more,offset=1", NULL, 8191 },
};

START_TEST(a_source_is_opened_again_from_its_spec_and_its_file)
{
	_cleanup_(source_unrefp) struct source *source = NULL, *without = NULL;
	_cleanup_(closep) int fd = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	struct source_identity identity = {};
	struct stat stat;
	const char *spec = reopened[_i].spec;
	int r;

	ck_assert_int_eq(ftruncate(fd, 8192), 0);
	ck_assert_int_eq(source_reopen(&source, spec, fd, NULL), 0);
	ck_assert_str_eq(source_spec(source), spec);
	ck_assert_uint_eq(source_length(source), reopened[_i].length);
	r = source_reopen(&without, spec, -1, NULL);
	ck_assert_int_eq(r, reopened[_i].again ? 0 : -EINVAL);

	r = source_file(source, &identity);
	if (reopened[_i].again) {
		ck_assert_int_eq(r, -EBADF);
		return;
	}
	ck_assert_int_ge(r, 0);
	ck_assert_int_eq(fstat(fd, &stat), 0);
	ck_assert_uint_eq(identity.device, stat.st_dev);
	ck_assert_uint_eq(identity.inode, stat.st_ino);
	ck_assert_uint_eq(identity.length_bytes, 8192);
	ck_assert_int_eq(identity.modified_s, stat.st_mtim.tv_sec);
}
END_TEST

/* What is compared: each number counts. */
START_TEST(a_file_is_the_same_only_if_everything_is)
{
	struct source_identity file = { 1, 2, 3, 4, 5, 6, 7 }, other;
	const size_t offsets[] = {
		offsetof(struct source_identity, device),
		offsetof(struct source_identity, inode),
		offsetof(struct source_identity, length_bytes),
		offsetof(struct source_identity, modified_s),
		offsetof(struct source_identity, changed_s),
		offsetof(struct source_identity, modified_ns),
		offsetof(struct source_identity, changed_ns),
	};

	ck_assert(source_is_same_file(&file, &file));
	for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
		other = file;
		((unsigned char *)&other)[offsets[i]] ^= 8;
		ck_assert(!source_is_same_file(&file, &other));
	}
}
END_TEST

/* Whoever takes over without the open file finds it by the path that is kept. */
START_TEST(an_open_file_is_kept_with_its_path)
{
	_cleanup_(source_unrefp) struct source *source = NULL, *nameless = NULL;
	char path[] = "/tmp/ufd-test,source.XXXXXX", spec[64];
	_cleanup_(closep) int fd = mkstemp(path);
	_cleanup_(closep) int unnamed = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	ck_assert_int_eq(ftruncate(fd, 8192), 0);
	ck_assert_int_eq(ftruncate(unnamed, 8192), 0);
	ck_assert_int_eq(source_open(&source, "file:,offset=4K", fd, NULL), 0);
	ck_assert_int_eq(source_open(&nameless, "file:", unnamed, NULL), 0);
	unlink(path);
	snprintf(spec, sizeof(spec), "file:/tmp/ufd-test,,source.%s,offset=4K",
		 path + strlen(path) - 6);
	ck_assert_str_eq(source_spec(source), spec);
	ck_assert_str_eq(source_spec(nameless), "file:");
}
END_TEST

START_TEST(one_that_is_gone_answers_never_with_bytes)
{
	_cleanup_(source_unrefp) struct source *source = NULL;
	struct source_request request = { .length_bytes = 4096 };
	uint64_t length = 0;

	ck_assert_int_eq(source_new_gone(&source, "file:/image"), 0);
	ck_assert_str_eq(source_spec(source), "file:/image");
	ck_assert_int_eq(source_file(source, NULL), -EBADF);
	ck_assert_int_eq(source_read(source, &request), SOURCE_CHANGED);
	ck_assert_int_eq(source_extent(source, 0, 4096, &length), _SOURCE_DATA);
}
END_TEST

int main(void)
{
	return unit_run(
		"source",
		(struct unit_test[]){
			UNIT(zero_answers_without_touching_the_buffer),
			UNIT(an_open_file_is_kept_with_its_path),
			UNIT(backing_is_all_data),
			UNIT_TABLE(a_callback_gives_the_answer, answers),
			UNIT_TABLE(bytes_behind_the_end_are_short_and_never_asked_for, bounds),
			UNIT_TABLE(an_extent_is_never_empty_never_too_long_and_zero_only_if_said,
				   extents),
			UNIT(a_source_without_extents_and_free_is_all_data),
			UNIT(ops_that_cannot_be_are_refused),
			UNIT_TABLE(a_completion_is_final, completions),
			UNIT(the_last_of_many_threads_frees),
			UNIT_TABLE(a_spec_opens_a_source_or_says_what_is_wrong, specs),
			UNIT(a_path_has_an_end),
			UNIT_TABLE(a_source_is_opened_again_from_its_spec_and_its_file, reopened),
			UNIT(a_file_is_the_same_only_if_everything_is),
			UNIT(one_that_is_gone_answers_never_with_bytes),
			{},
		});
}
