/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* SPECs of images: opened, refused, kept for a successor, and passed on. */
#include "test-image.h"

static bool is_remote, tells_no_holes;

off_t lseek(int fd, off_t offset, int whence)
{
	if (tells_no_holes && (whence == SEEK_DATA || whence == SEEK_HOLE)) {
		errno = EINVAL;
		return -1;
	}
	return syscall(SYS_lseek, fd, offset, whence);
}

/* The mounts, of which ours may be one that somebody else serves. */
FILE *fopen(const char *path, const char *mode)
{
	static char line[128];
	struct statx info;

	if (!is_remote || strcmp(path, "/proc/self/mountinfo"))
		return fdopen(open(path, O_RDONLY | O_CLOEXEC), "r");
	ck_assert_int_eq(statx(AT_FDCWD, directory, 0, STATX_MNT_ID, &info), 0);
	snprintf(line, sizeof(line), "%llu 1 0:1 / / rw - fuse.sshfs host: rw\n",
		 (unsigned long long)info.stx_mnt_id);
	return fmemopen(line, strlen(line), "r");
}

/* DIR is the directory. */
static const struct {
	const char *spec;
	int result;
	const char *mentions;
} specs[] = {
	{ "image:DIR/child2", 0, NULL },
	{ "image:DIR/child,,1,memory=ram", 0, NULL },
	{ "image:DIR/child2,cache=1M,memory=ram", 0, NULL },
	{ "image:DIR/base,single", 0, NULL },
	{ "image:DIR/child2,single", -EXDEV, "flatten" },
	{ "firecracker:DIR/mem", 0, NULL },
	{ "image:DIR/none", -ENOENT, "/none" },
	{ "image:DIR", -ESPIPE, "no regular file" },
	{ "image:DIR/mem", -EBADMSG, "no .ufdi image" },
	{ "image:", -EINVAL, "open file" },
	{ "image:DIR/child2,memory=rom", -EINVAL, "the memories ram" },
	{ "image:DIR/child2,memory=", -EINVAL, "name" },
	{ "image:DIR/child2,cache=0", -EINVAL, "cache" },
	{ "image:DIR/child2,offset=1", -EINVAL, "'offset=1'" },
	{ "image:DIR/child2,digest=12", -EINVAL, "digest" },
	{ "image:DIR/child2,digest=00112233445566778899aabbccddeeff", -ESTALE, "another image" },
	{ "firecracker:DIR/mem,memory=ram", -EINVAL, "'memory=ram'" },
	{ "firecracker:DIR/mem+", -EINVAL, "empty" },
	{ "firecracker:+DIR/mem", -EINVAL, "name the files" },
	{ "firecracker:DIR/mem+DIR/odd", -EINVAL, "no multiple" },
	{ "firecracker:DIR/mem+DIR/short", -EINVAL, "different lengths" },
	{ "cloud-hypervisor:DIR", -ENOENT, "memory-ranges" },
};

static void name_directory(const char *spec, char text[512])
{
	size_t n = 0;

	for (; *spec; spec++) {
		if (strncmp(spec, "DIR", 3)) {
			text[n++] = *spec;
			continue;
		}
		n += (size_t)sprintf(text + n, "%s", directory);
		spec += 2;
	}
	text[n] = '\0';
}

START_TEST(a_spec_opens_an_image_or_says_what_is_wrong)
{
	struct source *source = NULL;
	const char *error = "";
	char spec[512];
	int r;

	make_directory();
	make_chain(IMAGE_LZ4);
	write_diff("mem", true, 1);
	write_diff("odd", true, 1);
	write_diff("short", true, 1);
	ck_assert_int_eq(truncate(path_of("odd"), BYTES - 1), 0);
	ck_assert_int_eq(truncate(path_of("short"), BYTES - PAGE), 0);
	name_directory(specs[_i].spec, spec);
	ck_assert(image_spec_is(spec));
	r = image_source_open(&source, spec, -1, &error);
	ck_assert_msg(r == specs[_i].result, "%s: %d (%s)", spec, r, error);
	ck_assert((source != NULL) == (r == 0));
	if (r)
		ck_assert_msg(strstr(error, specs[_i].mentions), "%s: %s", spec, error);
	source_unref(source);
	remove_directory();
}
END_TEST

/* As a successor does it: by what is kept, and the open file. */
START_TEST(a_source_is_opened_again_whatever_was_appended)
{
	struct source_identity before, after;
	struct source *source, *again = NULL;
	struct image_writer_opts opts = {};
	struct image_writer *writer = NULL;
	const char *error = "";
	static const unsigned char page[PAGE] = "new";
	int fd;

	make_directory();
	make_chain(IMAGE_LZ4);
	source = open_spec("image:%s", path_of("child2"));
	fd = open(path_of("child2"), O_RDWR | O_CLOEXEC);
	ck_assert_int_eq(image_writer_append(&writer, fd, &opts, &error), 0);
	ck_assert_int_eq(image_writer_pages(writer, 0, 7, page, 1), 0);
	ck_assert_int_eq(image_writer_commit(writer, NULL), 0);
	image_writer_free(writer);
	ck_assert_msg(image_source_reopen(&again, source_spec(source), fd, &error) == 0, "%s",
		      error);
	ck_assert_int_ge(source_file(source, &before), 0);
	ck_assert_int_ge(source_file(again, &after), 0);
	ck_assert(source_is_same_file(&before, &after));
	check_source(again, 50);
	source_unref(again);
	source_unref(source);

	source = open_spec("image:%s", path_of("child2"));
	source_file(source, &after);
	ck_assert(!source_is_same_file(&before, &after));
	source_unref(source);
	close(fd);
	remove_directory();
}
END_TEST

START_TEST(layers_of_firecracker_are_opened_again_if_none_has_changed)
{
	struct source_identity before, after;
	struct source *source, *again = NULL;
	const char *error = "";
	int fd;

	make_directory();
	write_diff("mem", true, 1);
	write_diff("diff", false, 2);
	source = open_spec("firecracker:%s+%s", path_of("mem"), path_of("diff"));
	fd = source_file(source, &before);
	ck_assert_msg(image_source_reopen(&again, source_spec(source), fd, &error) == 0, "%s",
		      error);
	source_file(again, &after);
	ck_assert(source_is_same_file(&before, &after));
	check_source(again, 20);
	again = source_unref(again);
	/* the base is another file by now */
	ck_assert_int_eq(unlink(path_of("mem")), 0);
	write_diff("mem", true, 1);
	ck_assert_msg(image_source_reopen(&again, source_spec(source), fd, &error) == 0, "%s",
		      error);
	source_file(again, &after);
	ck_assert(!source_is_same_file(&before, &after));
	source_unref(again);
	source_unref(source);
	remove_directory();
}
END_TEST

/* Who passes an open file may not have others opened for him. */
START_TEST(an_open_file_with_parents_is_refused)
{
	struct source *source = NULL;
	const char *error = "";
	int fd;

	make_directory();
	make_chain(IMAGE_LZ4);
	fd = open(path_of("child2"), O_RDONLY | O_CLOEXEC);
	ck_assert_int_eq(image_source_open(&source, "image:", fd, &error), -EXDEV);
	ck_assert_ptr_nonnull(strstr(error, "flatten"));
	close(fd);
	fd = open(path_of("base"), O_RDONLY | O_CLOEXEC);
	ck_assert_msg(image_source_open(&source, "image:", fd, &error) == 0, "%s", error);
	/* and is found by its path later */
	ck_assert_ptr_nonnull(strstr(source_spec(source), path_of("base")));
	source_unref(source);
	close(fd);
	remove_directory();
}
END_TEST

/* The ring would answer EAGAIN where it should wait, and a fault would find an fd that nobody can read. */
START_TEST(an_open_file_must_be_readable_and_wait_for_its_disk)
{
	struct source *source = NULL;
	const char *error = "";
	int fd;

	make_directory();
	make_chain(IMAGE_LZ4);
	write_diff("mem", true, 1);
	fd = open(path_of("base"), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	ck_assert_msg(image_source_open(&source, "image:", fd, &error) == 0, "%s", error);
	ck_assert(!(fcntl(fd, F_GETFL) & O_NONBLOCK));
	source = source_unref(source);
	close(fd);
	fd = open(path_of("mem"), O_WRONLY | O_CLOEXEC);
	ck_assert_int_eq(image_source_open(&source, "firecracker:", fd, &error), -EBADF);
	ck_assert_ptr_nonnull(strstr(error, "reading"));
	close(fd);
	remove_directory();
}
END_TEST

/*
 * A stranger's file has no parents; what it becomes may not have any, either, be it by a digest that he
 * found to fit.
 */
START_TEST(what_came_open_is_opened_again_without_parents)
{
	struct source *source = NULL, *again = NULL;
	const char *error = "";
	char *kept, *digest;
	int fd;

	make_directory();
	make_chain(IMAGE_LZ4);
	fd = open(path_of("base"), O_RDONLY | O_CLOEXEC);
	ck_assert_msg(image_source_open(&source, "image:", fd, &error) == 0, "%s", error);
	kept = strdup(source_spec(source));
	source_unref(source);
	ck_assert_msg(image_source_reopen(&again, kept, fd, &error) == 0, "%s", error);
	ck_assert_str_eq(source_spec(again), kept);
	source_unref(again);
	close(fd);

	/* the same SPEC, of a layer */
	source = open_spec("image:%s", path_of("child2"));
	digest = strstr(source_spec(source), "digest=");
	memcpy(strstr(kept, "digest="), digest, strlen("digest=") + 32);
	fd = open(path_of("child2"), O_RDONLY | O_CLOEXEC);
	ck_assert_int_eq(image_source_reopen(&again, kept, fd, &error), -EXDEV);
	source_unref(source);
	close(fd);
	free(kept);
	remove_directory();
}
END_TEST

/* As on a block device. */
START_TEST(a_difference_whose_holes_cannot_be_told_is_refused)
{
	struct source *source = NULL;
	const char *error = "";
	char spec[512];

	make_directory();
	write_diff("mem", true, 1);
	write_diff("diff", false, 2);
	tells_no_holes = true;
	name_directory("firecracker:DIR/mem+DIR/diff", spec);
	ck_assert_int_eq(image_source_open(&source, spec, -1, &error), -EINVAL);
	ck_assert_ptr_nonnull(strstr(error, "holes"));
	source_unref(open_spec("firecracker:%s", path_of("mem")));
	remove_directory();
}
END_TEST

/* A successor opens it again, and must wait for nobody then. */
START_TEST(an_image_that_somebody_else_serves_is_no_source)
{
	struct source *source = NULL;
	struct image *image = NULL;
	const char *error = "";
	char spec[512];

	make_directory();
	make_chain(IMAGE_LZ4);
	is_remote = true;
	name_directory("image:DIR/child2", spec);
	ck_assert_int_eq(image_source_open(&source, spec, -1, &error), -EREMOTE);
	ck_assert_ptr_nonnull(strstr(error, "local disk"));
	/* though it can be looked at */
	ck_assert_msg(image_open(&image, path_of("child2"), -1, NULL, &error) == 0, "%s", error);
	image_unref(image);
	remove_directory();
}
END_TEST

START_TEST(what_is_passed_on_is_an_open_file_or_a_path_from_the_root)
{
	const char *error = "";
	char *spec = NULL, given[512];
	int fd = -EBADF;

	make_directory();
	make_chain(IMAGE_LZ4);
	write_diff("mem", true, 1);
	write_diff("diff", false, 2);
	ck_assert_int_eq(chdir(directory), 0);
	ck_assert_int_eq(image_spec_pass("image:base,memory=ram", &spec, &fd, &error), 0);
	ck_assert_str_eq(spec, "image:,memory=ram");
	ck_assert_int_ge(fd, 0);
	close(fd);
	free(spec);
	ck_assert_int_eq(image_spec_pass("image:child,,1,cache=1M", &spec, &fd, &error), 0);
	name_directory("image:DIR/child,,1,cache=1M", given);
	ck_assert_str_eq(spec, given);
	ck_assert_int_eq(fd, -EBADF);
	free(spec);
	ck_assert_int_eq(image_spec_pass("firecracker:mem+diff", &spec, &fd, &error), 0);
	name_directory("firecracker:DIR/mem+DIR/diff", given);
	ck_assert_str_eq(spec, given);
	free(spec);
	ck_assert_int_eq(image_spec_pass("firecracker:mem+none", &spec, &fd, &error), -ENOENT);
	ck_assert_int_eq(chdir("/"), 0);
	remove_directory();
}
END_TEST

int main(void)
{
	return unit_run("image-spec",
			(struct unit_test[]){
				UNIT_TABLE(a_spec_opens_an_image_or_says_what_is_wrong, specs),
				UNIT(a_source_is_opened_again_whatever_was_appended),
				UNIT(layers_of_firecracker_are_opened_again_if_none_has_changed),
				UNIT(an_image_that_somebody_else_serves_is_no_source),
				UNIT(an_open_file_with_parents_is_refused),
				UNIT(an_open_file_must_be_readable_and_wait_for_its_disk),
				UNIT(what_came_open_is_opened_again_without_parents),
				UNIT(a_difference_whose_holes_cannot_be_told_is_refused),
				UNIT(what_is_passed_on_is_an_open_file_or_a_path_from_the_root),
				{},
			});
}
