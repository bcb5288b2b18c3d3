/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Directories of snapshots: their files, their manifests, old and new. */
#include "snapshots/manifest.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "driver/driver.h"
#include "snapshots/files.h"
#include "snapshots/restore.h"
#include "support/unit.h"

/* Remembers what was asked of it. */
struct fake {
	struct driver driver;
	char calls[64];
};

static int fake_call(struct fake *fake, const char *name)
{
	strcat(fake->calls, name);
	strcat(fake->calls, " ");
	return 0;
}

static int fake_resume(struct driver *driver, struct refusal *refusal)
{
	return fake_call((struct fake *)driver, "resume");
}

static int fake_load(struct driver *driver, int state_fd, struct refusal *refusal)
{
	char bytes[16] = "";

	ck_assert_int_eq(read(state_fd, bytes, sizeof(bytes)), 7);
	ck_assert_str_eq(bytes, "devices");
	return fake_call((struct fake *)driver, "load");
}

static const struct driver_ops fake_ops = {
	.kind = "fake",
	.resume = fake_resume,
	.load = fake_load,
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
	static const char *const names[] = { SNAPSHOT_MANIFEST, SNAPSHOT_RAW, SNAPSHOT_IMAGE,
					     SNAPSHOT_STATE };
	char path[128];

	for (int i = 0; i < N_ROWS(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", place->saved, names[i]);
		unlink(path);
	}
	rmdir(place->saved);
	rmdir(place->directory);
}

static void write_file(const struct place *place, const char *name, const char *text)
{
	_cleanup_(closep) int fd = -EBADF;
	char path[160];

	snprintf(path, sizeof(path), "%s/%s", place->saved, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	ck_assert_int_eq(write(fd, text, strlen(text)), strlen(text));
}

static void set_length(const struct place *place, const char *name, uint64_t length_bytes)
{
	char path[160];

	snprintf(path, sizeof(path), "%s/%s", place->saved, name);
	ck_assert_int_eq(truncate(path, length_bytes), 0);
}

/* ---- its directory ---- */

static bool exists(const struct place *place, const char *name)
{
	char path[160];

	snprintf(path, sizeof(path), "%s/%s", place->saved, name);
	return access(path, F_OK) == 0;
}

START_TEST(files_are_a_snapshot_only_when_they_are_published)
{
	_cleanup_(place_done) struct place place;
	_cleanup_(snapshot_files_done) struct snapshot_files files = SNAPSHOT_FILES_NONE;
	struct snapshot_files again = SNAPSHOT_FILES_NONE;
	struct refusal refusal = {};
	struct stat file;
	char path[128];

	place_init(&place);
	ck_assert_int_eq(snapshot_files_open(&files, place.saved, true, &refusal), 0);
	ck_assert_int_eq(write(files.image, "memory", 6), 6);
	ck_assert_int_eq(write(files.state, "devices", 7), 7);
	ck_assert(!exists(&place, SNAPSHOT_MANIFEST) && !exists(&place, SNAPSHOT_IMAGE));

	ck_assert_int_eq(snapshot_files_publish(&files, "{}", &refusal), 0);
	ck_assert(exists(&place, SNAPSHOT_MANIFEST) && exists(&place, SNAPSHOT_IMAGE) &&
		  exists(&place, SNAPSHOT_STATE));
	ck_assert(!exists(&place, SNAPSHOT_MANIFEST ".new") &&
		  !exists(&place, SNAPSHOT_IMAGE ".new"));
	snprintf(path, sizeof(path), "%s/%s", place.saved, SNAPSHOT_IMAGE);
	ck_assert_int_eq(stat(path, &file), 0);
	ck_assert_uint_eq(file.st_mode & 0777, 0600);

	ck_assert_int_eq(snapshot_files_open(&again, place.saved, true, &refusal), -ECANCELED);
	ck_assert_ptr_nonnull(strstr(
		json_string_value(json_object_get(refusal.parameters, "message")), "already"));
	ck_assert(exists(&place, SNAPSHOT_IMAGE)); /* and nothing of it was touched */
	refusal_done(&refusal);
}
END_TEST

START_TEST(what_is_discarded_leaves_nothing)
{
	_cleanup_(place_done) struct place place;
	struct snapshot_files files = SNAPSHOT_FILES_NONE;
	struct refusal refusal = {};

	place_init(&place);
	ck_assert_int_eq(snapshot_files_open(&files, place.saved, false, &refusal), 0);
	ck_assert_int_lt(files.state, 0);
	snapshot_files_discard(&files);
	snapshot_files_done(&files);
	ck_assert_int_eq(access(place.saved, F_OK), -1);
}
END_TEST

START_TEST(a_directory_takes_one_save_at_a_time)
{
	_cleanup_(place_done) struct place place;
	_cleanup_(snapshot_files_done) struct snapshot_files files = SNAPSHOT_FILES_NONE;
	struct snapshot_files other = SNAPSHOT_FILES_NONE;
	struct refusal refusal = {};
	struct stat file;
	char path[160];

	place_init(&place);
	ck_assert_int_eq(snapshot_files_open(&files, place.saved, true, &refusal), 0);
	ck_assert_int_eq(write(files.image, "memory", 6), 6);
	ck_assert_int_eq(write(files.state, "devices", 7), 7);

	ck_assert_int_eq(snapshot_files_open(&other, place.saved, true, &refusal), -ECANCELED);
	ck_assert_ptr_nonnull(strstr(
		json_string_value(json_object_get(refusal.parameters, "message")), "another save"));
	refusal_done(&refusal);

	ck_assert_int_eq(snapshot_files_publish(&files, "{}", &refusal), 0);
	snprintf(path, sizeof(path), "%s/%s", place.saved, SNAPSHOT_IMAGE);
	ck_assert_int_eq(stat(path, &file), 0);
	ck_assert_int_eq(file.st_size, 6);
	snprintf(path, sizeof(path), "%s/%s", place.saved, SNAPSHOT_STATE);
	ck_assert_int_eq(stat(path, &file), 0);
	ck_assert_int_eq(file.st_size, 7);
}
END_TEST

START_TEST(a_rename_that_fails_leaves_no_snapshot)
{
	_cleanup_(place_done) struct place place;
	_cleanup_(snapshot_files_done) struct snapshot_files files = SNAPSHOT_FILES_NONE;
	struct refusal refusal = {};
	char path[160];

	place_init(&place);
	ck_assert_int_eq(snapshot_files_open(&files, place.saved, true, &refusal), 0);
	/* a folder in the way of the last but one */
	snprintf(path, sizeof(path), "%s/%s", place.saved, SNAPSHOT_STATE);
	ck_assert_int_eq(mkdir(path, 0700), 0);
	ck_assert_int_eq(snapshot_files_publish(&files, "{}", &refusal), -ECANCELED);
	ck_assert(!exists(&place, SNAPSHOT_MANIFEST) && !exists(&place, SNAPSHOT_IMAGE));
	refusal_done(&refusal);
	rmdir(path);
	snapshot_files_discard(&files);
}
END_TEST

START_TEST(devices_are_loaded_and_the_guest_goes_on_if_it_should)
{
	_cleanup_(place_done) struct place place;
	struct fake fake = { .driver.ops = &fake_ops };
	struct refusal refusal = {};
	uint64_t running_ns = 1;

	place_init(&place);
	ck_assert_int_eq(mkdir(place.saved, 0700), 0);
	write_file(&place, SNAPSHOT_STATE, "devices");
	ck_assert_int_eq(
		snapshot_load_and_run(&fake.driver, place.saved, true, &running_ns, &refusal), 0);
	ck_assert_str_eq(fake.calls, "load ");
	ck_assert_uint_eq(running_ns, 0);
	ck_assert_int_eq(
		snapshot_load_and_run(&fake.driver, place.saved, false, &running_ns, &refusal), 0);
	ck_assert_str_eq(fake.calls, "load load resume ");
	ck_assert_uint_gt(running_ns, 0);
}
END_TEST

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
	write_file(&place, SNAPSHOT_RAW, "");
	set_length(&place, SNAPSHOT_RAW, 2113536);

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

START_TEST(what_version_2_wrote_stays_readable)
{
	_cleanup_(snapshot_manifest_done) struct snapshot_manifest manifest = {};
	_cleanup_(freep) char *spec = NULL;
	struct refusal refusal = {};
	char directory[256];
	int r;

	snprintf(directory, sizeof(directory), "%s/tests/compat/snapshot-2", getenv("SOURCE_ROOT"));
	r = snapshot_read_manifest(directory, &manifest, &refusal);
	if (r == 0)
		r = snapshot_check_image(directory, &manifest, &refusal);
	ck_assert_msg(r == 0, "%s",
		      json_string_value(json_object_get(refusal.parameters, "message")));
	ck_assert_int_eq(manifest.way, SNAPSHOT_ROUNDS);
	ck_assert_uint_eq(manifest.taken_ns, 1795272236000000000);
	ck_assert_uint_eq(manifest.paused_ns, 81240000);
	ck_assert_uint_eq(manifest.n_rounds, 3);
	ck_assert_str_eq(manifest.consumer, "snapshot");
	ck_assert_uint_eq(manifest.epoch, 7);
	ck_assert_uint_eq(manifest.tracking[15], 0xef);
	ck_assert(!manifest.has_parent && !manifest.is_memory_only);
	ck_assert_uint_eq(manifest.n_memories, 1);
	spec = snapshot_source(directory, &manifest, &manifest.memories[0]);
	ck_assert_ptr_nonnull(strstr(spec, "/memory.ufdi,digest="));
	ck_assert_ptr_nonnull(strstr(spec, ",memory=memory"));

	manifest.digest[0] ^= 1;
	ck_assert_int_eq(snapshot_check_image(directory, &manifest, &refusal), -ECANCELED);
	ck_assert_str_eq(refusal.error, "io.ufd.guest.BadSnapshot");
	refusal_done(&refusal);
}
END_TEST

#define HEAD  "{\"format\":\"ufd-snapshot\",\"version\":1,"
#define SIZES "\"memory_bytes\":8192,\"populated_bytes\":0,\"state_bytes\":0,\"created_ns\":1,"
#define MEMORY(length, page, offset)                                                            \
	"{\"name\":\"a\",\"kind\":\"shmem\",\"length_bytes\":" #length ",\"page_bytes\":" #page \
	",\"offset_bytes\":" #offset "}"

#define DIGEST "00112233445566778899aabbccddeeff"
#define NEW_WITH(image, memory, more)                                                                    \
	"{\"format\":\"ufd-snapshot\",\"version\":2,\"created_ns\":1,\"way\":\"rounds\",\"taken_ns\":1," \
	"\"paused_ns\":2,\"rounds\":3,\"digest\":\"" DIGEST "\",\"image_bytes\":" #image                 \
	",\"memory_bytes\":" #memory                                                                     \
	",\"populated_bytes\":0,\"state_bytes\":0,\"memory_only\":false," more
#define NEW(memory, more) NEW_WITH(100, memory, more)
#define PARENT(path)	  "\"parent\":{\"digest\":\"" DIGEST "\",\"path\":" path "},"
#define CONSUMER(epoch, tracking) \
	"\"consumer\":{\"name\":\"c\",\"epoch\":" epoch ",\"tracking\":" tracking "},"
#define NEW_MEMORY(name, length)                                              \
	"{\"name\":\"" name "\",\"kind\":\"shmem\",\"length_bytes\":" #length \
	",\"page_bytes\":4096}"

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
	{ "{\"format\":\"ufd-snapshot\",\"version\":3}", "reads ufd-snapshot up to version 2" },
	{ "{\"format\":\"ufd-snapshot\",\"version\":0}", "reads ufd-snapshot up to version 2" },
	{ "{\"format\":\"other\",\"version\":1}", "reads ufd-snapshot up to version 2" },
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
	{ NEW(16384, ) "\"memories\":[" NEW_MEMORY("a", 8192) "," NEW_MEMORY("b", 8192) "]}",
	  NULL },
	{ NEW(16384, PARENT("\"../before/memory.ufdi\"") CONSUMER(
			     "7", "\"" DIGEST "\"")) "\"memories\":[" NEW_MEMORY("a", 16384) "]}",
	  NULL },
	{ NEW(8192, PARENT("\"\"")) "\"memories\":[" NEW_MEMORY("a", 8192) "]}",
	  "parent names no snapshot" },
	{ NEW(8192, PARENT("5")) "\"memories\":[" NEW_MEMORY("a", 8192) "]}",
	  "parent names no snapshot" },
	{ NEW(8192, CONSUMER("-1", "\"" DIGEST "\"")) "\"memories\":[" NEW_MEMORY("a", 8192) "]}",
	  "consumer is none" },
	{ NEW(8192, CONSUMER("1", "\"ab\"")) "\"memories\":[" NEW_MEMORY("a", 8192) "]}",
	  "consumer is none" },
	{ NEW(8192, ) "\"memories\":[" NEW_MEMORY("a", 16384) "]}", "memory_bytes is less" },
	{ NEW(16384, ) "\"memories\":[" NEW_MEMORY("a", 8192) "," NEW_MEMORY("a", 8192) "]}",
	  "its name comes twice" },
	{ NEW(8192, ) "\"memories\":[" NEW_MEMORY("", 8192) "]}", "no memory has such a name" },
	{ NEW_WITH(9000, 8192, ) "\"memories\":[" NEW_MEMORY("a", 8192) "]}",
	  "memory.ufdi has 8192 bytes, the manifest says 9000" },
	{ NEW_WITH(-1, 8192, ) "\"memories\":[" NEW_MEMORY("a", 8192) "]}",
	  "a number is impossible" },
	{ NEW_WITH(100, 8192, "\"digest\":\"x\",") "\"memories\":[" NEW_MEMORY("a", 8192) "]}",
	  "duplicate object key" },
};

/* What is written is what was read. */
static void assert_round_trip(const struct snapshot_manifest *manifest)
{
	_cleanup_(snapshot_manifest_done) struct snapshot_manifest again = {};
	_cleanup_(freep) char *text = snapshot_manifest_text(manifest, NULL);
	_cleanup_(freep) char *text_again = NULL;
	struct refusal refusal = {};

	ck_assert_int_eq(snapshot_manifest_parse("", text, strlen(text), &again, &refusal), 0);
	ck_assert_uint_eq(again.version, 2);
	text_again = snapshot_manifest_text(&again, NULL);
	ck_assert_str_eq(text, text_again);
}

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
	write_file(&place, SNAPSHOT_RAW, "");
	write_file(&place, SNAPSHOT_IMAGE, "");
	set_length(&place, SNAPSHOT_RAW, 8192);
	set_length(&place, SNAPSHOT_IMAGE, 8192);

	r = snapshot_read_manifest(place.saved, &manifest, &refusal);
	message = json_string_value(json_object_get(refusal.parameters, "message"));
	if (!manifests[_i].words) {
		ck_assert_msg(r == 0, "%s", message);
		if (manifest.version > 1)
			assert_round_trip(&manifest);
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
			UNIT(files_are_a_snapshot_only_when_they_are_published),
			UNIT(what_is_discarded_leaves_nothing),
			UNIT(a_directory_takes_one_save_at_a_time),
			UNIT(a_rename_that_fails_leaves_no_snapshot),
			UNIT(devices_are_loaded_and_the_guest_goes_on_if_it_should),
			UNIT(what_version_1_wrote_stays_readable),
			UNIT(what_version_2_wrote_stays_readable),
			UNIT_TABLE(a_manifest_is_believed_only_if_it_can_be_true, manifests),
			{},
		});
}
