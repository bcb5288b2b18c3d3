/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Plain snapshots through a driver that does what the test tells it. */
#include "attach/snapshot.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/units.h"
#include "support/unit.h"

#define PAGE	     4096
#define MEMORY_PAGES 1024

/* Remembers what was asked of it. */
struct fake {
	struct driver driver;
	char calls[64];
	bool is_running;
	const char *failing; /* the call that fails */
};

static int fake_call(struct fake *fake, const char *name, struct refusal *refusal)
{
	strcat(fake->calls, name);
	strcat(fake->calls, " ");
	if (fake->failing && !strcmp(fake->failing, name))
		return refusal_set(refusal, "io.ufd.guest.DriverFailed", NULL, "%s fails", name);
	return 0;
}

static int fake_pause(struct driver *driver, bool *ret_was_running, struct refusal *refusal)
{
	struct fake *fake = (struct fake *)driver;

	*ret_was_running = fake->is_running;
	return fake_call(fake, "pause", refusal);
}

static int fake_resume(struct driver *driver, struct refusal *refusal)
{
	return fake_call((struct fake *)driver, "resume", refusal);
}

static int fake_save(struct driver *driver, int state_fd, uint64_t *ret_bytes,
		     struct refusal *refusal)
{
	*ret_bytes = write(state_fd, "devices", 7);
	return fake_call((struct fake *)driver, "save", refusal);
}

static int fake_load(struct driver *driver, int state_fd, struct refusal *refusal)
{
	char bytes[16] = "";

	ck_assert_int_eq(read(state_fd, bytes, sizeof(bytes)), 7);
	ck_assert_str_eq(bytes, "devices");
	return fake_call((struct fake *)driver, "load", refusal);
}

static int fake_describe(struct driver *driver, json_t **ret_machine, struct refusal *refusal)
{
	*ret_machine = json_pack("{s:s}", "vmm", "fake");
	return 0;
}

static const struct driver_ops fake_ops = {
	.kind = "fake",
	.pause = fake_pause,
	.resume = fake_resume,
	.save = fake_save,
	.load = fake_load,
	.describe = fake_describe,
};

/* A directory of the test's own, gone with it; `saved` in it is the snapshot's. */
struct place {
	char directory[64];
	char saved[80];
};

static void place_init(struct place *place)
{
	strcpy(place->directory, "/tmp/ufd-snapshot-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(place->directory));
	snprintf(place->saved, sizeof(place->saved), "%s/saved", place->directory);
}

static void place_done(struct place *place)
{
	static const char *const names[] = { SNAPSHOT_MANIFEST, SNAPSHOT_MEMORY, SNAPSHOT_STATE };
	char path[128];

	for (int i = 0; i < N_ROWS(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", place->saved, names[i]);
		unlink(path);
	}
	rmdir(place->saved);
	rmdir(place->directory);
}

/* A memory of 4 MiB: data, a page of zeros, a hole, data at the end. */
static int make_memory(void)
{
	int fd = memfd_create("memory", MFD_CLOEXEC);
	static const char zeros[PAGE];

	ck_assert_int_eq(ftruncate(fd, MEMORY_PAGES * PAGE), 0);
	ck_assert_int_eq(pwrite(fd, "first", 5, 0), 5);
	ck_assert_int_eq(pwrite(fd, zeros, PAGE, PAGE), PAGE);
	ck_assert_int_eq(pwrite(fd, "third", 5, 3 * PAGE - 5), 5);
	ck_assert_int_eq(pwrite(fd, "last", 4, MEMORY_PAGES * PAGE - 4), 4);
	return fd;
}

static int save(struct fake *fake, const struct place *place, int fd, struct snapshot_saved *saved,
		struct refusal *refusal)
{
	struct snapshot_input inputs[] = {
		{ "ram0", "shmem", fd, MEMORY_PAGES * PAGE, PAGE },
		{ "ram1", "shmem", fd, 3 * PAGE, PAGE },
	};

	return snapshot_save(&fake->driver, inputs, 2, place->saved, saved, refusal);
}

static void assert_bytes(const struct place *place, uint64_t offset, const char *expected)
{
	_cleanup_(closep) int fd = -EBADF;
	char path[128], bytes[16] = "";

	snprintf(path, sizeof(path), "%s/%s", place->saved, SNAPSHOT_MEMORY);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	ck_assert_int_eq(pread(fd, bytes, strlen(expected), offset), strlen(expected));
	ck_assert_str_eq(bytes, expected);
}

START_TEST(what_was_saved_can_be_read)
{
	_cleanup_(place_done) struct place place;
	_cleanup_(closep) int fd = make_memory();
	_cleanup_(snapshot_manifest_done) struct snapshot_manifest manifest = {};
	struct fake fake = { .driver.ops = &fake_ops, .is_running = true };
	struct refusal refusal = {};
	struct snapshot_saved saved;
	struct stat file;
	char path[128];

	place_init(&place);
	ck_assert_int_eq(save(&fake, &place, fd, &saved, &refusal), 0);
	ck_assert_str_eq(fake.calls, "pause save resume ");
	ck_assert_uint_eq(saved.length_bytes, (MEMORY_PAGES + 3) * PAGE);
	ck_assert_uint_eq(saved.populated_bytes, 5 * PAGE); /* neither hole nor zero page */
	ck_assert_uint_eq(saved.state_bytes, 7);
	ck_assert_uint_gt(saved.paused_ns, 0);

	ck_assert_int_eq(snapshot_read_manifest(place.saved, &manifest, &refusal), 0);
	ck_assert_uint_eq(manifest.n_memories, 2);
	ck_assert_str_eq(manifest.memories[1].name, "ram1");
	ck_assert_uint_eq(manifest.memories[1].offset_bytes, MEMORY_PAGES * PAGE);
	assert_bytes(&place, 0, "first");
	assert_bytes(&place, MEMORY_PAGES * PAGE - 4, "last");
	assert_bytes(&place, (MEMORY_PAGES + 3) * PAGE - 5, "third");

	snprintf(path, sizeof(path), "%s/%s", place.saved, SNAPSHOT_MEMORY);
	ck_assert_int_eq(stat(path, &file), 0);
	ck_assert_uint_eq(file.st_mode & 0777, 0600);
	ck_assert_uint_lt(file.st_blocks * 512, 64 * PAGE);
}
END_TEST

static const struct {
	const char *failing;
	const char *calls;
} failures[] = {
	{ "pause", "pause " },
	{ "save", "pause save resume " },
	{ "resume", "pause save resume " },
};

START_TEST(a_failure_resumes_the_guest_and_leaves_nothing)
{
	_cleanup_(place_done) struct place place;
	_cleanup_(closep) int fd = make_memory();
	struct fake fake = { .driver.ops = &fake_ops,
			     .is_running = true,
			     .failing = failures[_i].failing };
	struct refusal refusal = {};
	struct snapshot_saved saved;

	place_init(&place);
	ck_assert_int_eq(save(&fake, &place, fd, &saved, &refusal), -ECANCELED);
	ck_assert_str_eq(refusal.error, "io.ufd.guest.DriverFailed");
	ck_assert_str_eq(fake.calls, failures[_i].calls);
	ck_assert_int_eq(access(place.saved, F_OK), -1);
	refusal_done(&refusal);
}
END_TEST

START_TEST(a_paused_guest_stays_paused)
{
	_cleanup_(place_done) struct place place;
	_cleanup_(closep) int fd = make_memory();
	struct fake fake = { .driver.ops = &fake_ops };
	struct refusal refusal = {};
	struct snapshot_saved saved;
	uint64_t running_ns = 1;

	place_init(&place);
	ck_assert_int_eq(save(&fake, &place, fd, &saved, &refusal), 0);
	ck_assert_str_eq(fake.calls, "pause save ");
	ck_assert_uint_eq(saved.paused_ns, 0);

	ck_assert_int_eq(
		snapshot_load_and_run(&fake.driver, place.saved, true, &running_ns, &refusal), 0);
	ck_assert_str_eq(fake.calls, "pause save load ");
	ck_assert_uint_eq(running_ns, 0);
	ck_assert_int_eq(
		snapshot_load_and_run(&fake.driver, place.saved, false, &running_ns, &refusal), 0);
	ck_assert_str_eq(fake.calls, "pause save load load resume ");
	ck_assert_uint_gt(running_ns, 0);
}
END_TEST

static void write_file(const struct place *place, const char *name, const char *text)
{
	_cleanup_(closep) int fd = -EBADF;
	char path[160];

	snprintf(path, sizeof(path), "%s/%s", place->saved, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	ck_assert_int_eq(write(fd, text, strlen(text)), strlen(text));
}

static void set_length(const struct place *place, uint64_t length_bytes)
{
	char path[160];

	snprintf(path, sizeof(path), "%s/%s", place->saved, SNAPSHOT_MEMORY);
	ck_assert_int_eq(truncate(path, length_bytes), 0);
}

/* The directory that version 1 wrote, with its memory made anew. */
static void copy_golden(struct place *place, const char *name)
{
	_cleanup_(closep) int fd = -EBADF;
	char path[256], text[4096];
	ssize_t n;

	snprintf(path, sizeof(path), "%s/tests/compat/snapshot-1/%s", getenv("SOURCE_ROOT"), name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = read(fd, text, sizeof(text) - 1);
	ck_assert_int_gt(n, 0);
	text[n] = '\0';
	write_file(place, name, text);
}

START_TEST(what_version_1_wrote_stays_readable)
{
	_cleanup_(place_done) struct place place;
	_cleanup_(snapshot_manifest_done) struct snapshot_manifest manifest = {};
	struct refusal refusal = {};
	int r;

	place_init(&place);
	ck_assert_int_eq(mkdir(place.saved, 0700), 0);
	copy_golden(&place, SNAPSHOT_MANIFEST);
	copy_golden(&place, SNAPSHOT_STATE);
	write_file(&place, SNAPSHOT_MEMORY, "");
	set_length(&place, 2113536);

	r = snapshot_read_manifest(place.saved, &manifest, &refusal);
	ck_assert_msg(r == 0, "%s",
		      json_string_value(json_object_get(refusal.parameters, "message")));
	ck_assert_uint_eq(manifest.created_ns, 1795272235924612000);
	ck_assert_uint_eq(manifest.memory_bytes, 2113536);
	ck_assert_uint_eq(manifest.populated_bytes, 4096);
	ck_assert_uint_eq(manifest.state_bytes, 11);
	ck_assert_uint_eq(manifest.n_memories, 2);
	ck_assert_str_eq(manifest.memories[0].name, "ram0");
	ck_assert_str_eq(manifest.memories[0].kind, "shmem");
	ck_assert_uint_eq(manifest.memories[1].length_bytes, 16384);
	ck_assert_uint_eq(manifest.memories[1].page_bytes, 4096);
	ck_assert_uint_eq(manifest.memories[1].offset_bytes, 2097152);
}
END_TEST

#define HEAD  "{\"format\":\"ufd-snapshot\",\"version\":1,"
#define SIZES "\"memory_bytes\":8192,\"populated_bytes\":0,\"state_bytes\":0,\"created_ns\":1,"
#define MEMORY(length, page, offset)                                                            \
	"{\"name\":\"a\",\"kind\":\"shmem\",\"length_bytes\":" #length ",\"page_bytes\":" #page \
	",\"offset_bytes\":" #offset "}"

static const struct {
	const char *manifest;
	const char *words; /* in the refusal; NULL: it is fine */
} manifests[] = {
	{ HEAD SIZES "\"memories\":[" MEMORY(8192, 4096, 0) "]}", NULL },
	{ HEAD SIZES "\"later\":{},\"memories\":[" MEMORY(8192, 4096, 0) "]}", NULL },
	{ HEAD SIZES "\"memories\":[" MEMORY(4096, 4096, 0) "," MEMORY(4096, 4096, 4096) "]}",
	  NULL },
	{ "", "line 1" },
	{ "[]", "Expected object" },
	{ "{\"format\":\"ufd-snapshot\",\"version\":2}", "reads ufd-snapshot version 1" },
	{ "{\"format\":\"other\",\"version\":1}", "reads ufd-snapshot version 1" },
	{ HEAD SIZES "\"memories\":[]}", "from 1 to 1024 memories" },
	{ HEAD SIZES "\"memories\":[{}]}", "memory 0: Object item not found: name" },
	{ HEAD SIZES "\"memories\":[" MEMORY(8192, 4096, 4096) "]}", "outside memory.raw" },
	{ HEAD SIZES "\"memories\":[" MEMORY(-4096, 4096, 4096) "]}", "outside memory.raw" },
	{ HEAD SIZES "\"memories\":[" MEMORY(4096, 4096, -4096) "]}", "outside memory.raw" },
	{ HEAD SIZES "\"memories\":[" MEMORY(4095, 4096, 0) "]}", "not a number of pages" },
	{ HEAD SIZES "\"memories\":[" MEMORY(0, 4096, 0) "]}", "not a number of pages" },
	{ HEAD SIZES "\"memories\":[" MEMORY(8192, 0, 0) "]}", "no page size" },
	{ HEAD SIZES "\"memories\":[" MEMORY(8192, 6000, 0) "]}", "no page size" },
	{ HEAD SIZES "\"memories\":[" MEMORY(4096, 4096, 12) "]}", "not at a page" },
	{ HEAD SIZES "\"memories\":[" MEMORY(8192, 4096, 0) "," MEMORY(4096, 4096, 4096) "]}",
	  "overlaps" },
	{ HEAD "\"memory_bytes\":-1,\"populated_bytes\":0,\"state_bytes\":0,\"created_ns\":1,"
	       "\"memories\":[]}",
	  "impossible" },
	{ HEAD "\"memory_bytes\":4096,\"populated_bytes\":0,\"state_bytes\":0,\"created_ns\":1,"
	       "\"memories\":[" MEMORY(4096, 4096, 0) "]}",
	  "memory.raw has 8192 bytes, the manifest says 4096" },
	{ HEAD "\"memory_bytes\":8192,\"populated_bytes\":0,\"state_bytes\":7,\"created_ns\":1,"
	       "\"memories\":[" MEMORY(8192, 4096, 0) "]}",
	  "device.state has 0 bytes, the manifest says 7" },
};

START_TEST(a_manifest_is_believed_only_if_it_can_be_true)
{
	_cleanup_(place_done) struct place place;
	_cleanup_(snapshot_manifest_done) struct snapshot_manifest manifest = {};
	struct refusal refusal = {};
	const char *message;
	int r;

	place_init(&place);
	ck_assert_int_eq(mkdir(place.saved, 0700), 0);
	write_file(&place, SNAPSHOT_MANIFEST, manifests[_i].manifest);
	write_file(&place, SNAPSHOT_STATE, "");
	write_file(&place, SNAPSHOT_MEMORY, "");
	set_length(&place, 8192);

	r = snapshot_read_manifest(place.saved, &manifest, &refusal);
	message = json_string_value(json_object_get(refusal.parameters, "message"));
	if (!manifests[_i].words) {
		ck_assert_msg(r == 0, "%s", message);
		return;
	}
	ck_assert_int_eq(r, -ECANCELED);
	ck_assert_str_eq(refusal.error, "io.ufd.guest.BadSnapshot");
	ck_assert_msg(strstr(message, manifests[_i].words), "'%s' lacks '%s'", message,
		      manifests[_i].words);
	ck_assert_ptr_null(manifest.memories);
	refusal_done(&refusal);
}
END_TEST

int main(void)
{
	return unit_run(
		"snapshot",
		(struct unit_test[]){
			UNIT(what_was_saved_can_be_read),
			UNIT_TABLE(a_failure_resumes_the_guest_and_leaves_nothing, failures),
			UNIT(a_paused_guest_stays_paused),
			UNIT(what_version_1_wrote_stays_readable),
			UNIT_TABLE(a_manifest_is_believed_only_if_it_can_be_true, manifests),
			{},
		});
}
