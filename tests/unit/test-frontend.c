/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What VMMs say when they hand memory over, whole and in every split; and what nobody says. */
#include "attach/frontend.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "attach/plan.h"
#include "base/cleanup.h"
#include "kernel/uffd.h"
#include "refusal.h"
#include "support/unit.h"

#define A_REGION  "\"base_host_virt_addr\":140243434508288,\"size\":268435456,\"offset\":0"
#define B_REGION  "\"base_host_virt_addr\":140243702943744,\"size\":4194304,\"offset\":268435456"
#define SMALL	  ",\"page_size\":4096,\"page_size_kib\":4096"
#define HUGE	  ",\"page_size\":2097152,\"page_size_kib\":2097152"
#define KIB_HUGE  ",\"page_size_kib\":2097152"
#define A_ADDRESS UINT64_C(140243434508288)

/* A literal and its length: some of them hold zeros. */
#define TEXT(text) text, sizeof(text) - 1

static const struct {
	const char *what;
	const char *bytes;
	size_t n_bytes, n_fds;
	size_t n_regions;
	uint64_t page_bytes; /* of the last */
	int backing;
	const char *version;
} messages[] = {
	{ "1.1", TEXT("[{" A_REGION "}]"), 1, 1, 4096, -1, "Firecracker 1.1 to 1.6" },
	{ "1.7", TEXT("[{" A_REGION KIB_HUGE "}]"), 1, 1, 2097152, -1, "Firecracker 1.7 to 1.11" },
	{ "1.12", TEXT("[{" A_REGION SMALL "}]"), 1, 1, 4096, -1, "Firecracker 1.12 or later" },
	{ "1.12, 2 MiB", TEXT("[{" A_REGION HUGE "},{" B_REGION HUGE "}]"), 1, 2, 2097152, -1,
	  "Firecracker 1.12 or later" },
	{ "page_size wins", TEXT("[{" A_REGION ",\"page_size_kib\":4096,\"page_size\":2097152}]"),
	  1, 1, 2097152, -1, "Firecracker 1.12 or later" },
	{ "e2b", TEXT("[{" A_REGION SMALL "}]"), 2, 1, 4096, 1,
	  "Firecracker 1.12 or later, e2b's fork" },
	{ "blanks", TEXT("\n [ {" A_REGION " } ,\t{ " B_REGION "} ]\r\n"), 1, 2, 4096, -1,
	  "Firecracker 1.1 to 1.6" },
	{ "unknown keys",
	  TEXT("[{\"x\":{\"]\":[\"}\\\"]\",-1.5e3,null,true,false,{}]}," A_REGION
	       ",\"gpa\":\"\\u00e9\"}]"),
	  1, 1, 4096, -1, "Firecracker 1.1 to 1.6" },
};

static const int some_fds[] = { 100, 101, 102, 103 };

static struct frontend_input input_of(const char *bytes, size_t n_bytes, size_t n_fds)
{
	return (struct frontend_input){
		.bytes = bytes, .n_bytes = n_bytes, .fds = some_fds, .n_fds = n_fds
	};
}

START_TEST(every_version_is_read_and_every_beginning_of_it_awaited)
{
	struct refusal refusal = {};
	struct frontend_offer offer;
	const struct frontend *frontend = NULL;
	struct frontend_input input;
	size_t n_text = messages[_i].n_bytes;

	/* what may follow the last bracket is not waited for */
	while (messages[_i].bytes[n_text - 1] != ']')
		n_text--;
	for (size_t n = 0; n <= messages[_i].n_bytes; n++) {
		input = input_of(messages[_i].bytes, n, messages[_i].n_fds);
		ck_assert_msg(frontend_recognise(&input, &frontend, &offer, &refusal) ==
				      (n < n_text ? FRONTEND_MORE : FRONTEND_WHOLE),
			      "%s, %zu bytes", messages[_i].what, n);
		/* from so many bytes on there is but one that it can be */
		ck_assert_msg(n < 5 || frontend == &frontend_firecracker, "%s, %zu bytes",
			      messages[_i].what, n);
	}
	ck_assert_uint_eq(offer.n_bytes, messages[_i].n_bytes);
	ck_assert_uint_eq(offer.n_regions, messages[_i].n_regions);
	ck_assert_uint_eq(offer.regions[0].address, A_ADDRESS);
	ck_assert_uint_eq(offer.regions[0].length_bytes, 268435456);
	ck_assert_uint_eq(offer.regions[offer.n_regions - 1].page_bytes, messages[_i].page_bytes);
	ck_assert_int_eq(offer.uffd, 0);
	ck_assert_int_eq(offer.backing, messages[_i].backing);
	ck_assert_uint_eq(offer.modes,
			  messages[_i].backing < 0 ? 0 : UFFD_MODE_MISSING | UFFD_MODE_WP);
	ck_assert_str_eq(offer.version, messages[_i].version);
}
END_TEST

START_TEST(a_message_that_ends_too_early_is_refused)
{
	struct frontend_offer offer;
	const struct frontend *frontend;

	for (size_t n = 0; n + 1 < messages[_i].n_bytes; n++) {
		_cleanup_(refusal_done) struct refusal refusal = {};
		struct frontend_input input = input_of(messages[_i].bytes, n, messages[_i].n_fds);
		int r;

		input.is_ended = true;
		r = frontend_recognise(&input, &frontend, &offer, &refusal);
		if (r == FRONTEND_WHOLE)
			break;
		ck_assert_int_eq(r, -ECANCELED);
		ck_assert_str_eq(refusal.error, "io.ufd.handoff.BadMessage");
	}
}
END_TEST

#define MANY4(text)  text text text text
#define MANY16(text) MANY4(text) MANY4(text) MANY4(text) MANY4(text)
#define MANY64(text) MANY16(text) MANY16(text) MANY16(text) MANY16(text)

static const struct {
	const char *what;
	const char *bytes;
	size_t n_bytes, n_fds;
	const char *word; /* of the refusal; the name of a dialect is one of UnsupportedDialect */
} refusals[] = {
	{ "no userfaultfd", TEXT("[{" A_REGION "}]"), 0, "no userfaultfd" },
	{ "four fds", TEXT("[{" A_REGION "}]"), 4, "4 file descriptors" },
	{ "three fds", TEXT("[{" A_REGION "}]"), 3, "firecracker-secret-freedom" },
	{ "gpa_start", TEXT("[{" A_REGION ",\"gpa_start\":0}]"), 1, "firecracker-secret-freedom" },
	{ "is_guest_memfd", TEXT("[{" A_REGION ",\"is_guest_memfd\":false}]"), 1,
	  "firecracker-secret-freedom" },
	{ "what secret freedom says next", TEXT("[{" A_REGION "}]no_exitless_apf"), 1,
	  "firecracker-secret-freedom" },
	{ "what it says next, first", TEXT("exitless_apf:2"), 0, "firecracker-secret-freedom" },
	{ "uffd_block", TEXT("DFFU\0\0\1\0"), 1, "firecracker-uffd-block" },
	{ "binary of Cloud Hypervisor", TEXT("\n\0\1\0\1\3\2\0\0\0\0\0\0\0\0\0"), 1,
	  "cloud-hypervisor-uffd-binary" },
	{ "migration of Cloud Hypervisor", TEXT("\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"), 0,
	  "cloud-hypervisor" },
	{ "HTTP", TEXT("GET / HTTP/1.1\r\n"), 0, "no dialect" },
	{ "an object", TEXT("{" A_REGION "}"), 1, "no dialect" },
	{ "no regions", TEXT("[     ]"), 1, "1 to 64 regions" },
	{ "too many", TEXT("[" MANY64("{" A_REGION "},") "{" A_REGION "}]"), 1, "1 to 64 regions" },
	{ "numbers", TEXT("[{" A_REGION "},7]"), 1, "no JSON array of objects" },
	{ "arrays", TEXT("[{" A_REGION "},[]]"), 1, "no JSON array of objects" },
	{ "two commas", TEXT("[{" A_REGION "},,{" A_REGION "}]"), 1, "no JSON array of objects" },
	{ "no comma", TEXT("[{" A_REGION "}{" A_REGION "}]"), 1, "no JSON array of objects" },
	{ "a last comma", TEXT("[{" A_REGION "},]"), 1, "no JSON array of objects" },
	{ "brackets crossed", TEXT("[{\"abc\":[}"), 1, "no JSON array of objects" },
	{ "a zero", TEXT("[{\"abc\0"), 1, "no JSON array of objects" },
	{ "a line in a string", TEXT("[{\"abc\n\":1}]"), 1, "no JSON array of objects" },
	{ "words", TEXT("[{\"abc\": nix}]"), 1, "no JSON array of objects" },
	{ "bad words", TEXT("[{\"abc\": nul}]"), 1, "no JSON:" },
	{ "twice the same", TEXT("[{" A_REGION ",\"offset\":4096}]"), 1, "no JSON:" },
	{ "beyond 2^63", TEXT("[{\"base_host_virt_addr\":18446744073709551615}]"), 1, "no JSON:" },
	{ "no address", TEXT("[{\"size\":4096,\"offset\":0}]"), 1, "base_host_virt_addr" },
	{ "a length in words", TEXT("[{\"base_host_virt_addr\":0,\"size\":\"4096\",\"offset\":0}]"),
	  1, "`size`" },
	{ "a negative offset", TEXT("[{\"base_host_virt_addr\":0,\"size\":0,\"offset\":-4096}]"), 1,
	  "`offset`" },
	{ "KiB after all", TEXT("[{" A_REGION ",\"page_size_kib\":4}]"), 1, "page_size_kib" },
	{ "an odd page", TEXT("[{" A_REGION ",\"page_size\":12288}]"), 1, "page_size" },
	{ "a page beyond all", TEXT("[{" A_REGION ",\"page_size\":2199023255552}]"), 1,
	  "page_size" },
	{ "more behind it", TEXT("[{" A_REGION "}] []"), 1, "follows the regions" },
};

START_TEST(what_nobody_says_is_refused_with_the_reason)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	struct frontend_input input = input_of(refusals[_i].bytes, refusals[_i].n_bytes,
					       refusals[_i].n_fds);
	const struct frontend *frontend;
	struct frontend_offer offer;
	const char *dialect, *message;

	ck_assert_msg(frontend_recognise(&input, &frontend, &offer, &refusal) == -ECANCELED, "%s",
		      refusals[_i].what);
	dialect = json_string_value(json_object_get(refusal.parameters, "dialect"));
	message = json_string_value(json_object_get(refusal.parameters, "message"));
	if (dialect) {
		ck_assert_str_eq(refusal.error, "io.ufd.handoff.UnsupportedDialect");
		ck_assert_str_eq(dialect, refusals[_i].word);
		return;
	}
	ck_assert_str_eq(refusal.error, "io.ufd.handoff.BadMessage");
	ck_assert_msg(strstr(message, refusals[_i].word), "%s: %s", refusals[_i].what, message);
}
END_TEST

START_TEST(a_message_without_end_is_refused)
{
	static char bytes[FRONTEND_MAX_BYTES + 1];
	_cleanup_(refusal_done) struct refusal refusal = {};
	struct frontend_input input = input_of(bytes, sizeof(bytes) - 1, 1);
	const struct frontend *frontend;
	struct frontend_offer offer;

	memset(bytes, ' ', sizeof(bytes));
	memcpy(bytes, "[{\"a\":", 6);
	ck_assert_int_eq(frontend_recognise(&input, &frontend, &offer, &refusal), FRONTEND_MORE);
	input.n_bytes++;
	ck_assert_int_eq(frontend_recognise(&input, &frontend, &offer, &refusal), -ECANCELED);
}
END_TEST

/* ---- Cloud Hypervisor's proposal ---- */

#define CH_HANDOFF                                                                             \
	"{\"type\":\"handoff\",\"version\":0,\"vmm_pid\":77,\"mode\":\"MISSING|WP|WP_ASYNC\"," \
	"\"regions\":[{\"guest_phys_addr\":0,\"host_virt_addr\":140243434508288,"              \
	"\"size\":268435456,\"backing_file_offset\":4096}]}"
#define CH_ADD                                                                                 \
	"{\"type\":\"add_region\",\"region\":{\"guest_phys_addr\":0,\"host_virt_addr\":65536," \
	"\"size\":4096,\"backing_file_offset\":8192}}"

static size_t ch_message(char *to, const char *text)
{
	size_t n = strlen(text);

	to[0] = (char)n;
	to[1] = (char)(n >> 8);
	to[2] = to[3] = 0;
	memcpy(to + 4, text, n);
	return n + 4;
}

START_TEST(messages_with_a_length_are_read_one_by_one)
{
	char bytes[1024];
	size_t n_first = ch_message(bytes, CH_HANDOFF);
	size_t n_all = n_first + ch_message(bytes + n_first, CH_ADD);
	struct refusal refusal = {};
	struct frontend_offer offer;
	const struct frontend *frontend;
	struct frontend_input input;

	for (size_t n = 0; n <= n_all; n++) {
		input = input_of(bytes, n, 1);
		ck_assert_int_eq(frontend_recognise(&input, &frontend, &offer, &refusal),
				 n < n_first ? FRONTEND_MORE : FRONTEND_WHOLE);
	}
	ck_assert_ptr_eq(frontend, &frontend_cloud_hypervisor_uffd);
	ck_assert_uint_eq(offer.n_bytes, n_first);
	ck_assert_int_eq(offer.claimed_pid, 77);
	ck_assert_uint_eq(offer.modes, UFFD_MODE_MISSING | UFFD_MODE_WP);
	ck_assert_uint_eq(offer.regions[0].offset_bytes, 4096);
	ck_assert(offer.is_backing_unsaid && offer.backing == -1 && offer.uffd == 0);

	input = input_of(bytes + n_first, n_all - n_first, 0);
	ck_assert_int_eq(frontend->read(&input, &offer, &refusal), FRONTEND_WHOLE);
	ck_assert_int_eq(offer.uffd, -1);
	ck_assert_uint_eq(offer.n_regions, 1);
	ck_assert_uint_eq(offer.regions[0].address, 65536);
}
END_TEST

static const struct {
	const char *what, *text;
	size_t n_fds;
	const char *word;
} ch_refusals[] = {
	{ "no type", "{\"version\":0}", 1, "handoff" },
	{ "a later version", "{\"type\":\"handoff\",\"version\":1}", 1, "another version" },
	{ "no process", "{\"type\":\"handoff\",\"version\":0}", 1, "no process" },
	{ "no regions", "{\"type\":\"handoff\",\"version\":0,\"vmm_pid\":1}", 1, "no regions" },
	{ "no uffd", CH_HANDOFF, 0, "0 file descriptors" },
	{ "no mode",
	  "{\"type\":\"handoff\",\"version\":0,\"vmm_pid\":1,\"mode\":\"RWP\",\"regions\":[{}]}", 1,
	  "`RWP`" },
	{ "a mode that is none",
	  "{\"type\":\"handoff\",\"version\":0,\"vmm_pid\":1,\"regions\":[{}]}", 1, "no mode" },
	{ "no JSON", "{\"type\":}", 1, "no JSON" },
	{ "an empty region", "{\"type\":\"add_region\"}", 0, "host_virt_addr" },
};

START_TEST(messages_with_a_length_are_refused_with_the_reason)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	char bytes[1024];
	struct frontend_input input = input_of(bytes, ch_message(bytes, ch_refusals[_i].text),
					       ch_refusals[_i].n_fds);
	struct frontend_offer offer;
	const char *message;

	ck_assert_int_eq(frontend_cloud_hypervisor_uffd.read(&input, &offer, &refusal), -ECANCELED);
	message = json_string_value(json_object_get(refusal.parameters, "message"));
	ck_assert_msg(strstr(message, ch_refusals[_i].word), "%s: %s", ch_refusals[_i].what,
		      message);
}
END_TEST

/* ---- plans ---- */

static const struct {
	const char *what;
	const char *text;
	size_t n_memories; /* 0: refused */
} plans[] = {
	{ "one region", "[{" A_REGION "}]", 1 },
	{ "two of one memory", "[{" A_REGION "},{" B_REGION "}]", 1 },
	{ "two sizes of pages",
	  "[{" A_REGION "},{\"base_host_virt_addr\":2097152,\"size\":2097152,"
	  "\"offset\":268435456" KIB_HUGE "}]",
	  2 },
	{ "the same addresses", "[{" A_REGION "},{" A_REGION "}]", 0 },
	{ "the same offsets",
	  "[{" A_REGION "},{\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":8192}]", 0 },
	{ "no length", "[{\"base_host_virt_addr\":4096,\"size\":0,\"offset\":0}]", 0 },
	{ "an odd address", "[{\"base_host_virt_addr\":4097,\"size\":4096,\"offset\":0}]", 0 },
	{ "an odd length", "[{\"base_host_virt_addr\":4096,\"size\":4097,\"offset\":0}]", 0 },
	{ "an odd offset", "[{\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":1}]", 0 },
	{ "an end beyond 2^63",
	  "[{\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":9223372036854771712}]", 0 },
	{ "an address beyond it",
	  "[{\"base_host_virt_addr\":9223372036854771712,\"size\":8192,\"offset\":0}]", 0 },
};

START_TEST(offers_become_plans)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	_cleanup_(plan_done) struct plan plan = {};
	struct frontend_input input = input_of(plans[_i].text, strlen(plans[_i].text), 1);
	struct frontend_offer offer;
	int r;

	ck_assert_int_eq(frontend_firecracker.read(&input, &offer, &refusal), FRONTEND_WHOLE);
	r = frontend_plan(&offer, &input, "zero", -EBADF, &plan, &refusal);
	if (!plans[_i].n_memories) {
		ck_assert_msg(r == -ECANCELED, "%s", plans[_i].what);
		ck_assert_str_eq(refusal.error, "io.ufd.guest.BadRegion");
		return;
	}
	ck_assert_int_eq(r, 0);
	ck_assert_uint_eq(plan.n_memories, plans[_i].n_memories);
	ck_assert_uint_eq(plan.n_mappings, offer.n_regions);
	ck_assert_str_eq(plan.memories[0].name, "memory");
	ck_assert_int_eq(plan.memories[0].kind, UFD_MEMORY_ANON);
	if (plan.n_memories == 2)
		ck_assert_str_eq(plan.memories[1].name, "memory-2048K");
}
END_TEST

START_TEST(a_file_says_what_its_memory_is)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	_cleanup_(plan_done) struct plan plan = {};
	_cleanup_(closep) int memfd = memfd_create("guest", MFD_CLOEXEC);
	_cleanup_(closep) int read_only = -1;
	const char *text = "[{" A_REGION "}]";
	int fds[2] = { -1, memfd };
	struct frontend_input input = { text, strlen(text), fds, 2, false };
	struct frontend_offer offer;
	char path[32];

	ck_assert_int_eq(ftruncate(memfd, 268435456), 0);
	ck_assert_int_eq(frontend_firecracker.read(&input, &offer, &refusal), FRONTEND_WHOLE);
	ck_assert_int_eq(frontend_plan(&offer, &input, "zero", -1, &plan, &refusal), 0);
	ck_assert_int_eq(plan.memories[0].kind, UFD_MEMORY_SHMEM);
	ck_assert_int_eq(plan.memories[0].backing, memfd);
	plan_done(&plan);

	ck_assert_int_eq(ftruncate(memfd, 4096), 0);
	ck_assert_int_eq(frontend_plan(&offer, &input, "zero", -1, &plan, &refusal), -ECANCELED);
	ck_assert_str_eq(refusal.error, "io.ufd.guest.BadRegion");
	refusal_done(&refusal);

	snprintf(path, sizeof(path), "/proc/self/fd/%d", memfd);
	fds[1] = read_only = open(path, O_RDONLY | O_CLOEXEC);
	ck_assert_int_eq(frontend_plan(&offer, &input, "zero", -1, &plan, &refusal), -ECANCELED);
	ck_assert_str_eq(refusal.error, "io.ufd.guest.BadFd");
}
END_TEST

START_TEST(dialects_have_names)
{
	ck_assert_ptr_eq(frontend_find("firecracker"), &frontend_firecracker);
	ck_assert_ptr_eq(frontend_find("cloud-hypervisor-uffd"), &frontend_cloud_hypervisor_uffd);
	ck_assert_ptr_null(frontend_find("auto"));
}
END_TEST

int main(void)
{
	return unit_run(
		"frontend",
		(struct unit_test[]){
			UNIT_TABLE(every_version_is_read_and_every_beginning_of_it_awaited,
				   messages),
			UNIT_TABLE(a_message_that_ends_too_early_is_refused, messages),
			UNIT_TABLE(what_nobody_says_is_refused_with_the_reason, refusals),
			UNIT(a_message_without_end_is_refused),
			UNIT(messages_with_a_length_are_read_one_by_one),
			UNIT_TABLE(messages_with_a_length_are_refused_with_the_reason, ch_refusals),
			UNIT_TABLE(offers_become_plans, plans),
			UNIT(a_file_says_what_its_memory_is),
			UNIT(dialects_have_names),
			{},
		});
}
