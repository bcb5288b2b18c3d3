/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest that its engine left. */
#include "support/left-guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "guest/ledger.h"
#include "guest/roster.h"
#include "support/unit.h"

static void on_event(struct ufd_pager_guest *guest, const struct ufd_event *event, void *userdata)
{
	struct left *left = userdata;

	left->n_events[event->kind]++;
}

static void make_source(struct left *left)
{
	static unsigned char page[1 << 21];

	strcpy(left->source_path, "/tmp/left-XXXXXX");
	left->source = mkostemp(left->source_path, O_CLOEXEC);
	ck_assert_int_ge(left->source, 0);
	for (uint64_t i = 0; i < left->child.length / left->child.page_bytes; i++) {
		child_page(i, left->child.page_bytes, page);
		ck_assert_int_eq(write(left->source, page, left->child.page_bytes),
				 left->child.page_bytes);
	}
}

static void build(struct left *left, enum child_memory kind,
		  const struct ufd_pager_guest_opts *guest_opts)
{
	UFD_OPTS(ufd_pager_memory_opts, memory, .name = "ram", .length = left->child.length,
		 .page_bytes = left->child.page_bytes, .backing = left->child.memfd, .kind = kind);
	char spec[64];

	snprintf(spec, sizeof(spec), "file:%s", left->source_path);
	ck_assert_int_eq(ufd_source_open(&memory.source, spec, -1, NULL), 0);
	ck_assert_int_eq(ufd_pager_guest_new(left->pager, &left->guest, "left", guest_opts), 0);
	ck_assert_int_eq(ufd_pager_guest_add_mapper(left->guest, left->child.uffd,
						    left->child.pidfd, -1, &left->mapper),
			 0);
	ck_assert_int_eq(ufd_pager_guest_add_memory(left->guest, &memory, &left->memory), 0);
	ufd_source_unref(memory.source);
}

void left_init(struct left *left, enum child_memory kind, const struct ufd_pager_guest_opts *opts)
{
	left_init_pages(left, kind, LEFT_PAGES, opts);
}

void left_init_pages(struct left *left, enum child_memory kind, uint64_t n_pages,
		     const struct ufd_pager_guest_opts *opts)
{
	UFD_OPTS(ufd_pager_guest_opts, defaults, .no_background = 1, .window_bytes = UFD_NO_WINDOW,
		 .other_mappers = UFD_OTHERS_IGNORE);
	UFD_OPTS(ufd_pager_opts, pager_opts, .on_event = on_event, .userdata = left);
	int r;

	memset(left, 0, sizeof(*left));
	left->kept.ledger = -1;
	r = child_start(&left->child, kind, n_pages * 4096);
	if (r == -EPERM || r == -EACCES)
		unit_skip("no userfaultfd for kernel faults: %s", strerror(-r));
	ck_assert_int_eq(r, 0);
	make_source(left);
	ck_assert_int_eq(ufd_pager_new(&left->pager, &pager_opts), 0);
	build(left, kind, opts ? opts : &defaults);
}

static void forget(struct kept *kept)
{
	closep(&kept->ledger);
	for (size_t i = 0; i < kept->n_handles; i++)
		closep(&kept->handles[i].fd);
	*kept = (struct kept){ .ledger = -1 };
}

void left_done(struct left *left)
{
	ufd_pager_free(left->pager);
	forget(&left->kept);
	child_stop(&left->child);
	close(left->source);
	unlink(left->source_path);
}

static int duplicate(int fd)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);

	ck_assert_int_ge(copy, 0);
	return copy;
}

void left_keep(struct left *left)
{
	forget(&left->kept);
	ck_assert_int_eq(ufd_pager_guest_handles(left->guest, left->kept.handles, UFD_MAX_HANDLES,
						 &left->kept.n_handles),
			 0);
	left->kept.ledger = duplicate(ufd_pager_guest_ledger(left->guest));
	for (size_t i = 0; i < left->kept.n_handles; i++)
		left->kept.handles[i].fd = duplicate(left->kept.handles[i].fd);
}

void left_leave(struct left *left)
{
	left_keep(left);
	left->guest = ufd_pager_guest_leave(left->guest);
}

static void on_report(void *userdata, const char *sentence)
{
	struct left *left = userdata;
	size_t n = strlen(left->reports);

	snprintf(left->reports + n, sizeof(left->reports) - n, "%s\n", sentence);
}

int left_adopt(struct left *left, int *ret_was_started)
{
	UFD_OPTS(ufd_pager_adopt_opts, opts, .handles = left->kept.handles,
		 .n_handles = left->kept.n_handles, .refetch = left->refetch, .report = on_report,
		 .userdata = left);

	left->reports[0] = '\0';
	return ufd_pager_guest_adopt(left->pager, &left->guest, left->kept.ledger, &opts,
				     ret_was_started);
}

void left_must_serve(struct left *left)
{
	uint64_t n_wrong;
	int was_started = 0, r;

	r = left_adopt(left, &was_started);
	ck_assert_msg(r == 0, "%s: %s", strerror(-r), left->reports);
	ck_assert_int_eq(was_started, 1);
	ck_assert_int_eq(ufd_pager_guest_start(left->guest), 0);
	child_check(&left->child, 2, CHILD_RANDOM, false, &n_wrong);
	ck_assert_uint_eq(n_wrong, 0);
}

struct ufd_handle *left_handle(struct left *left, uint32_t kind, uint32_t id)
{
	for (size_t i = 0; i < left->kept.n_handles; i++)
		if (left->kept.handles[i].kind == kind && left->kept.handles[i].id == id)
			return &left->kept.handles[i];
	ck_abort_msg("no handle of kind %u was kept", kind);
	return NULL;
}

void left_lose(struct left *left, uint32_t kind, uint32_t id)
{
	struct ufd_handle *handle = left_handle(left, kind, id);

	close(handle->fd);
	*handle = left->kept.handles[--left->kept.n_handles];
}

/* The stage is in the two lowest bits of a mapping's first word of three. */
void left_set_stage(struct left *left, uint32_t place, unsigned int stage)
{
	_cleanup_(ledger_freep) struct ledger *ledger = NULL;
	uint64_t words[3 * ROSTER_CHUNK];
	size_t n_bytes;

	ck_assert_int_eq(ledger_adopt(&ledger, left->kept.ledger), 0);
	ck_assert_int_eq(
		ledger_copy_record(ledger, LEDGER_MAPPING, 0, words, sizeof(words), &n_bytes), 0);
	ck_assert_uint_lt(3 * place * sizeof(words[0]), n_bytes);
	words[3 * place] = (words[3 * place] & ~UINT64_C(3)) | stage;
	ck_assert_int_eq(ledger_put_record(ledger, LEDGER_MAPPING, 0, words, n_bytes), 0);
}
