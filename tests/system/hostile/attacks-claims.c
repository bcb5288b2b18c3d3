/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Claims on what belongs to somebody else. */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "attacks.h"
#include "party.h"

#define N_ROWS(table) (sizeof(table) / sizeof((table)[0]))

/* A pid or a handle of a process that is not the caller's. */
static void forged_pid(struct party *party)
{
	const pid_t pids[] = { party->bystander, party->daemon, 1, getppid() };

	party_begin(party);
	while (party_goes_on(party)) {
		for (size_t i = 0; i < N_ROWS(pids); i++)
			party_expect_refusal(party, "somebody's pid", "io.ufd.guest.AttachProcess",
					     json_pack("{s:s, s:i, s:s}", "name", "mine", "pid",
						       pids[i], "source", "zero"),
					     NULL, 0);
		party_expect_refusal(
			party, "somebody's process", "io.ufd.guest.AttachProcess",
			json_pack("{s:s, s:i, s:s}", "name", "mine", "pidfd", 0, "source", "zero"),
			&party->bystander_pidfd, 1);
	}
}

static void anothers_guest(struct party *party)
{
	static const struct {
		const char *method, *form;
	} rows[] = {
		{ "io.ufd.guest.Detach", "{s:s}" },
		{ "io.ufd.guest.NoteDiscard", "{s:s, s:s, s:i, s:i}" },
		{ "io.ufd.guest.NoteWrite", "{s:s, s:s, s:i, s:i}" },
		{ "io.ufd.guest.Prefetch", "{s:s, s:s, s:i, s:i}" },
	};

	party_begin(party);
	while (party_goes_on(party)) {
		for (size_t i = 0; i < N_ROWS(rows); i++)
			party_expect_refusal(party, "somebody's guest", rows[i].method,
					     json_pack(rows[i].form, "name", BYSTANDER, "memory",
						       "ram", "offset_bytes", 0, "length_bytes",
						       16 * PAGE),
					     NULL, 0);
		party_expect_refusal(party, "somebody's region", "io.ufd.guest.RemoveRegion",
				     json_pack("{s:s, s:I, s:I}", "name", BYSTANDER, "address",
					       (json_int_t)party->bystander_address, "length_bytes",
					       (json_int_t)(SCENE_N_PAGES * PAGE)),
				     NULL, 0);
		party_expect_refusal(party, "a region more", "io.ufd.guest.AddRegions",
				     json_pack("{s:s, s:i, s:[o]}", "name", BYSTANDER, "uffd",
					       FD_UFFD, "regions", party_region(party, 0, 16)),
				     party->fds, N_FDS);
		party_expect_refusal(
			party, "somebody's snapshot", "io.ufd.guest.SnapshotSave",
			json_pack("{s:s, s:s}", "name", BYSTANDER, "directory", "/tmp/x"), NULL, 0);
	}
}

/* Not what it may open itself: the daemon is no way around that. */
static void foreign_paths(struct party *party)
{
	char mem[64];
	const char *const sources[] = { "file:/etc/shadow",   "file:/proc/1/mem",
					"file:/dev/mem",      "file:/etc/../etc/passwd",
					"file:/dev/zero",     mem,
					"file:relative",      "file:/root/.ssh/id_rsa,offset=0",
					"backing:/etc/shadow" };

	snprintf(mem, sizeof(mem), "file:/proc/%d/mem", party->bystander);
	party_begin(party);
	while (party_goes_on(party)) {
		for (size_t i = 0; i < N_ROWS(sources); i++) {
			json_t *region = party_region(party, 0, PARTY_N_PAGES);

			json_object_set_new(region, "source", json_string(sources[i]));
			json_object_del(region, "source_fd");
			party_expect_refusal(
				party, sources[i], "io.ufd.guest.Attach",
				party_attach_call("mine", json_pack("[o]", region), true),
				party->fds, N_FDS);
		}
		party_expect_refusal(party, "a monitor's path", "io.ufd.guest.AttachProcess",
				     json_pack("{s:s, s:s, s:s}", "name", "mine", "qmp",
					       "/run/qemu.sock", "source", "zero"),
				     NULL, 0);
		party_expect_refusal(
			party, "a folder", "io.ufd.guest.Restore",
			json_pack("{s:s, s:s}", "directory", "/root", "qmp", "/run/qemu.sock"),
			NULL, 0);
		party_expect_refusal(party, "the log", "io.ufd.manager.SetLog",
				     json_pack("{s:s}", "level", "debug"), NULL, 0);
	}
}

static json_t *odd_region(const struct party *party, uint64_t address, uint64_t length,
			  uint64_t offset)
{
	json_t *region = party_region(party, 0, 1);

	json_object_set_new(region, "address", json_integer((json_int_t)address));
	json_object_set_new(region, "length_bytes", json_integer((json_int_t)length));
	json_object_set_new(region, "offset_bytes", json_integer((json_int_t)offset));
	return region;
}

static void odd_regions(struct party *party)
{
	const uint64_t top = INT64_MAX & ~UINT64_C(4095);
	struct {
		uint64_t address, length, offset;
	} rows[] = {
		{ 0, PARTY_BYTES, 0 },
		{ 0, 0, 0 },
		{ top, PAGE, 0 },
		{ PAGE, top, 0 },
		{ top, top, top },
		{ UINT64_MAX & ~UINT64_C(4095), 2 * PAGE, 0 },
		{ UINT64_C(0xffff800000000000), PAGE, 0 },
		{ (uint64_t)1 << 46, (uint64_t)1 << 46, 0 },
		{ party->bystander_address, PARTY_BYTES, 0 },
		{ 0, 0, 0 }, /* the party's own address, below */
		{ 0, 0, 0 },
		{ 0, 0, 0 },
		{ 0, 0, 0 },
	};
	uint64_t own;

	party_begin(party);
	own = (uint64_t)(uintptr_t)party->bytes;
	rows[9].address = own + 1, rows[9].length = PAGE;
	rows[10].address = own, rows[10].length = PAGE + 1;
	rows[11].address = own, rows[11].length = PAGE, rows[11].offset = PARTY_BYTES;
	rows[12].address = own + PARTY_BYTES - PAGE, rows[12].length = 1024 * GIB;
	while (party_goes_on(party)) {
		for (size_t i = 0; i < N_ROWS(rows); i++)
			party_expect_refusal(
				party, "an odd region", "io.ufd.guest.Attach",
				party_attach_call(
					"mine",
					json_pack("[o]",
						  odd_region(party, rows[i].address, rows[i].length,
							     rows[i].offset)),
					true),
				party->fds, N_FDS);
		party_expect_refusal(
			party, "overlapping regions", "io.ufd.guest.Attach",
			party_attach_call("mine",
					  json_pack("[o,o]", party_region(party, 0, 16),
						    party_region(party, 8, 16)),
					  true),
			party->fds, N_FDS);
	}
}

static void odd_names(struct party *party)
{
	static const char *const names[] = {
		"",
		BYSTANDER,
		"a name with blanks",
		"../up",
		"a/b",
		"new\nline",
		"\x1b[31m",
		"0123456789012345678901234567890123456789012345678901234567890123"
	};

	party_begin(party);
	while (party_goes_on(party))
		for (size_t i = 0; i < N_ROWS(names); i++) {
			const char *error = party_call(
				party, "io.ufd.guest.Attach",
				party_attach_call(names[i],
						  json_pack("[o]", party_region(party, 0, 16)),
						  true),
				party->fds, N_FDS);

			/* a name that is free again may be had */
			if (error && !error[0] && !atomic_load(&party->stage->is_bystander_leaving))
				party_complain(party, "the name `%s` was granted", names[i]);
		}
}

/* With the bystander's own userfaultfd, and with its addresses. */
static void anothers_memory(struct party *party)
{
	party_begin(party);
	/* where the bystander has its memory: the addresses fit both */
	munmap(party->bytes, PARTY_BYTES);
	party->bytes = mmap((void *)(uintptr_t)party->bystander_address, PARTY_BYTES,
			    PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, party->fds[FD_MEMORY],
			    0);
	party->fds[FD_UFFD] = party->bystander_uffd;
	party->fds[FD_PAGEMAP] = party->bystander_pagemap;
	while (party_goes_on(party)) {
		party_expect_refusal(
			party, "somebody's userfaultfd, own memory", "io.ufd.guest.Attach",
			party_attach_call("mine",
					  json_pack("[o]", party_region(party, 0, PARTY_N_PAGES)),
					  true),
			party->fds, N_FDS);
		party_expect_refusal(
			party, "somebody's memory", "io.ufd.guest.Attach",
			party_attach_call(
				"mine",
				json_pack("[o]", odd_region(party, party->bystander_address,
							    PARTY_BYTES, 0)),
				true),
			party->fds, N_FDS);
	}
}

/* One memory as two guests: its pages would be filled twice, from two sources. */
static void one_memory_twice(struct party *party)
{
	party_begin(party);
	party_attach(party, "mine", false);
	while (party_goes_on(party)) {
		party_expect_refusal(
			party, "the same memory again", "io.ufd.guest.Attach",
			party_attach_call("mine too",
					  json_pack("[o]", party_region(party, 0, PARTY_N_PAGES)),
					  true),
			party->fds, N_FDS);
		party_expect_refusal(party, "the same region again", "io.ufd.guest.AddRegions",
				     json_pack("{s:s, s:i, s:[o]}", "name", "mine", "uffd", FD_UFFD,
					       "regions", party_region(party, 0, 16)),
				     party->fds, N_FDS);
	}
}

const struct attack attacks_with_claims[] = {
	{ "a forged pid", forged_pid },
	{ "orders for somebody else's guest", anothers_guest },
	{ "foreign paths", foreign_paths },
	{ "huge, wrapping and overlapping regions", odd_regions },
	{ "taken and malformed names", odd_names },
	{ "somebody else's memory and userfaultfd", anothers_memory },
	{ "one memory as two guests", one_memory_twice },
	{},
};
