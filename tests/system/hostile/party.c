/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The hostile party. */
#include "party.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "kernel/backing.h"
#include "kernel/features.h"
#include "kernel/uffd.h"
#include "support/pattern.h"

#define CALL_NS (20 * NSEC_PER_SEC)

void party_complain(struct party *party, const char *text, ...)
{
	va_list arguments;

	va_start(arguments, text);
	vsnprintf(party->stage->complaint, sizeof(party->stage->complaint), text, arguments);
	va_end(arguments);
	_exit(1);
}

void party_skip(struct party *party, const char *text, ...)
{
	va_list arguments;

	va_start(arguments, text);
	vsnprintf(party->stage->skipped, sizeof(party->stage->skipped), text, arguments);
	va_end(arguments);
	_exit(0);
}

bool party_goes_on(struct party *party)
{
	if (atomic_fetch_add(&party->stage->n_rounds, 1) > 0)
		atomic_store(&party->stage->is_under_way, true);
	return !atomic_load(&party->stage->must_stop);
}

void party_rest(struct party *party)
{
	atomic_store(&party->stage->is_under_way, true);
	while (!atomic_load(&party->stage->must_stop))
		nanosleep(&(struct timespec){ .tv_nsec = 2 * 1000 * 1000 }, NULL);
}

int party_image(void)
{
	unsigned char page[PAGE];
	int fd = memfd_create("hostile-image", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	for (uint64_t i = 0; i < PARTY_N_PAGES; i++) {
		pattern_write(page, HOSTILE_SEED, i, 0);
		if (pwrite(fd, page, PAGE, (off_t)(i * PAGE)) != PAGE)
			_exit(2);
	}
	return fd;
}

void party_drop_rights(void)
{
	if (setgroups(0, NULL) || setgid(NOBODY) || setuid(NOBODY))
		_exit(2);
	prctl(PR_SET_DUMPABLE, 1); /* or /proc/self would be root's */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
}

void party_begin(struct party *party)
{
	if (uffd_open(&party->fds[FD_UFFD], UFFD_WAY_SYSCALL, features_wanted(false)) < 0 ||
	    backing_create(&party->fds[FD_MEMORY], "hostile", PARTY_BYTES, 0) < 0)
		party_skip(party, "no userfaultfd");
	party->fds[FD_SOURCE] = party_image();
	party->bytes = mmap(NULL, PARTY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
			    party->fds[FD_MEMORY], 0);
	if (party->bytes == MAP_FAILED)
		_exit(2);
	if (!party->keeps_root)
		party_drop_rights();
	party->fds[FD_PAGEMAP] = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	party_connect(party);
}

void party_connect(struct party *party)
{
	varlink_client_free(party->client);
	party->client = NULL;
	for (int i = 0; i < 20000 && varlink_client_connect(&party->client, party->socket) < 0; i++)
		nanosleep(&(struct timespec){ .tv_nsec = 1000 * 1000 }, NULL);
	if (!party->client)
		party_complain(party, "the daemon takes no connection any more");
}

const char *party_call(struct party *party, const char *method, json_t *parameters, const int *fds,
		       size_t n_fds)
{
	static char name[128];
	struct varlink_answer answer = {};
	int r = varlink_client_call(party->client, method, parameters, fds, n_fds,
				    clock_now_ns() + CALL_NS, &answer);

	json_decref(parameters);
	if (r == -ETIMEDOUT && !atomic_load(&party->stage->must_stop))
		party_complain(party, "%s was not answered within 20 s", method);
	if (r < 0) {
		party_connect(party);
		return NULL;
	}
	snprintf(name, sizeof(name), "%s", answer.error ? answer.error : "");
	varlink_answer_done(&answer);
	return name;
}

void party_expect_refusal(struct party *party, const char *what, const char *method,
			  json_t *parameters, const int *fds, size_t n_fds)
{
	const char *error = party_call(party, method, parameters, fds, n_fds);

	if (error && !error[0])
		party_complain(party, "%s: %s was granted", what, method);
}

json_t *party_region(const struct party *party, uint64_t first_page, uint64_t n_pages)
{
	return json_pack("{s:s, s:I, s:I, s:i, s:I, s:s, s:i}", "memory", "ram", "address",
			 (json_int_t)((uintptr_t)party->bytes + first_page * PAGE), "length_bytes",
			 (json_int_t)(n_pages * PAGE), "backing_fd", FD_MEMORY, "offset_bytes",
			 (json_int_t)(first_page * PAGE), "source", "file:", "source_fd",
			 FD_SOURCE);
}

json_t *party_attach_call(const char *name, json_t *regions, bool has_background)
{
	return json_pack("{s:s, s:i, s:i, s:o, s:{s:b}}", "name", name, "uffd", FD_UFFD, "pagemap",
			 FD_PAGEMAP, "regions", regions, "settings", "background", has_background);
}

void party_attach(struct party *party, const char *name, bool has_background)
{
	const char *error = party_call(
		party, "io.ufd.guest.Attach",
		party_attach_call(name, json_pack("[o]", party_region(party, 0, PARTY_N_PAGES)),
				  has_background),
		party->fds, N_FDS);

	/* the name may still be that of one who died a moment ago */
	if (!error || (error[0] && strcmp(error, "io.ufd.guest.GuestExists")))
		party_complain(party, "its own memory was refused: %s", error ? error : "broken");
}

void party_check_page(struct party *party, const void *bytes, uint64_t page)
{
	if (!pattern_is_right(bytes, HOSTILE_SEED, page, 0) && !pattern_is_all_zero(bytes))
		party_complain(party, "page %llu holds bytes that are neither its own nor zero",
			       (unsigned long long)page);
}
