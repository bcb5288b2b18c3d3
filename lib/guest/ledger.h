/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The ledger: what of one guest survives the daemon. One memfd, updated in place.
 *
 * Layout 1, little endian, every part page aligned:
 *	header    4 KiB	 magic, layout, length of these parts, checksum, guest name; min_reader
 *	messages  4 KiB	 the buffer that uffds are read into, see struct ledger_messages
 *	scan     64 KiB	 a PAGEMAP_SCAN vector, zeroed before each call
 *	board     4 KiB	 what the demand thread is busy with, see flight.h
 *	flight   68 KiB	 the last events, see flight.h
 *	records  96 KiB	 tagged records with checksums, in two halves; each owner packs its own
 *	areas		 appended as memories come: page states, dirty maps; sparse until written.
 *			 Each begins at a multiple of 64 KiB, the largest base page there is
 *
 * A reader refuses a ledger whose min_reader is newer than itself. A record is written whole before
 * its checksum, and replaces an older one of the same tag and id only when it is complete, so a
 * crash at any instruction leaves the old or the new record (records.h says how). Records that fail
 * their checksum are skipped and counted.
 *
 * The file can grow but never shrink (sealed), so no read of it raises SIGBUS. To adopt one writes
 * nothing into it: a new program may look at the ledger of a running one.
 *
 * Threads: records may be changed by any thread (a mutex, held for microseconds; never on the way
 * of a fault, only when a page is poisoned). Pointers into records are good until the next change,
 * so they are read while one thread has the guest: at adoption, before start.
 */
#pragma once

#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

#define LEDGER_LAYOUT	    1
#define LEDGER_OLDEST	    1 /* layout whose readers can still be written for */
#define LEDGER_N_MESSAGES   16
#define LEDGER_N_PUTS	    32
#define LEDGER_SCAN_BYTES   65536
#define LEDGER_RECORD_BYTES 49152 /* the most that lives at a time: one half */

/*
 * Readable and written by the demand thread. The kernel writes @messages; @n is stored after the
 * read. Protocol: @mapper, @is_reading = 1, read(), events applied, @is_reading = 0 and messages
 * zeroed, only then faults are resolved (from a private copy). After a crash with @is_reading set,
 * every REMOVE found in the (zero-filled before) buffer is applied again; faults come back by WAKE.
 *
 * @puts: for each slot of the data plane, the fill that may be under way: noted before its ioctl,
 * cleared when what it did is in the page states. After a crash a page that is filling and noted
 * nowhere was not put in by us: what exists there is foreign. One that is noted may be ours, and the
 * guest may have written it since: it must not be overwritten. From bit 0 the first page (40 bits),
 * how many (16 bits; 0: no note), the memory's id (8 bits), so that one store says it all.
 */
struct ledger_messages {
	uint32_t mapper;
	_Atomic uint32_t is_reading;
	uint64_t reserved[7];
	struct uffd_msg messages[LEDGER_N_MESSAGES];
	_Atomic uint64_t puts[LEDGER_N_PUTS];
};

struct board;
struct flight;
struct ledger;

/* LEDGER_LAYOUT, the newest that this program reads; tests link programs of a later one. */
extern const uint32_t ledger_layout;

/* A ledger for a new guest. @guest_name: at most 63 bytes. Return: 0 or -errno. */
int ledger_new(struct ledger **ret, const char *guest_name);

/* The same as a file of that name in @directory (on a tmpfs; filled with zeros as far as it is long,
 * so that a full file system is -ENOSPC here, not SIGBUS later). An old one is replaced. */
int ledger_new_file(struct ledger **ret, const char *guest_name, int directory);

/* What it is called there: the guest's name, with %XX for what no file name should have, and `.ledger`. */
#define LEDGER_FILE_NAME_BYTES 256
void ledger_file_name(const char *guest_name, char ret[static LEDGER_FILE_NAME_BYTES]);

/* The guest is gone for good: take this file, and no other one of its name, out of @directory. */
void ledger_unlink(const struct ledger *ledger, int directory);

/*
 * For those who look at the ledger of a running pager from another process: mapped read-only, and
 * nothing but reading may be called. Return: as ledger_adopt().
 */
int ledger_open_readonly(struct ledger **ret, int fd);

enum {
	_LEDGER_OK,
	LEDGER_DAMAGED, /* header or length are wrong */
	LEDGER_TOO_NEW, /* min_reader is above ledger_layout */
};

/*
 * One that a former process left. @fd: duplicated.
 * Return: 0, LEDGER_DAMAGED, LEDGER_TOO_NEW, -errno.
 */
int ledger_adopt(struct ledger **ret, int fd);

struct ledger *ledger_free(struct ledger *ledger);
DEFINE_CLEANUP(struct ledger, ledger_free)

int ledger_fd(const struct ledger *ledger); /* borrowed */
const char *ledger_guest_name(const struct ledger *ledger);

/*
 * Who may read it: readers of this layout, and newer ones. A new ledger asks for its own layout; a
 * release that can still be rolled back lets the one before read what it writes. Old or new after a
 * crash. @fd: of a ledger, in use or not. Return: 0 or -errno.
 */
int ledger_fd_set_min_reader(int fd, uint32_t layout);

/* Whose it is, also of one that asks for newer readers. Return: 0, LEDGER_DAMAGED. */
#define LEDGER_NAME_BYTES 64
int ledger_fd_guest_name(int fd, char ret[static LEDGER_NAME_BYTES]);

struct ledger_messages *ledger_messages(struct ledger *ledger);
void *ledger_scan_vector(struct ledger *ledger); /* LEDGER_SCAN_BYTES */
struct board *ledger_board(struct ledger *ledger);
struct flight *ledger_flight(struct ledger *ledger);

/**
 * ledger_add_area() - a zero, sparse area: one that was dropped, else a new one at the end
 * @ret_offset: for ledger_map_area() after a crash; page aligned
 * @ret_area:   mapped until ledger_free()
 *
 * Context: not demand (it calls the kernel and allocates). Return: 0, -ENOSPC (also: 1,024 areas), -errno.
 */
int ledger_add_area(struct ledger *ledger, uint64_t length_bytes, uint64_t *ret_offset,
		    void **ret_area);

/*
 * No record speaks of it any more, and nobody writes into it: it becomes zero, and another's. Who
 * still reads it finds it mapped. Context: as adding.
 */
void ledger_drop_area(struct ledger *ledger, uint64_t offset);

/* Map an area that exists. Return: 0, LEDGER_DAMAGED if it lies outside, -errno. */
int ledger_map_area(struct ledger *ledger, uint64_t offset, uint64_t length_bytes, void **ret_area);

/**
 * ledger_next_data() - the next part of [@offset, @end) that was ever written
 *
 * The rest is zero; reading it through the mapping would allocate it.
 * Context: not demand (two system calls). Return: false if there is none.
 */
bool ledger_next_data(const struct ledger *ledger, uint64_t offset, uint64_t end,
		      uint64_t *ret_offset, uint64_t *ret_length_bytes);

/**
 * ledger_put_record() - write or replace the record (@tag, @id)
 *
 * Context: any; does not allocate or call the kernel, waits for another writer's copy at most.
 * Return: 0, -ENOSPC when the record area is full, and then the old record stands.
 */
int ledger_put_record(struct ledger *ledger, uint32_t tag, uint32_t id, const void *data,
		      size_t n_bytes);
void ledger_drop_record(struct ledger *ledger, uint32_t tag, uint32_t id);

/*
 * A copy of at most @n_bytes of it; *@ret_n_bytes is its length, which may be more.
 * Context: any; as putting. Return: 0, -ENOENT.
 */
int ledger_copy_record(const struct ledger *ledger, uint32_t tag, uint32_t id, void *data,
		       size_t n_bytes, size_t *ret_n_bytes);

/* Return: 0 with a pointer into the ledger, -ENOENT. */
int ledger_get_record(const struct ledger *ledger, uint32_t tag, uint32_t id, const void **ret_data,
		      size_t *ret_n_bytes);

/*
 * Each whole record in turn; @cursor starts at 0. False after the last.
 * @ret_n_damaged: how many were skipped at adoption; may be NULL.
 */
bool ledger_next_record(const struct ledger *ledger, size_t *cursor, uint32_t *ret_tag,
			uint32_t *ret_id, const void **ret_data, size_t *ret_n_bytes,
			unsigned int *ret_n_damaged);

/* Tags in use. */
enum ledger_tag {
	LEDGER_GUEST = 1,
	LEDGER_MEMORY = 2,
	LEDGER_MAPPER = 3,
	LEDGER_MAPPING = 4,
	LEDGER_POISON = 5,
	LEDGER_SOURCE = 6, /* of the memory with this id: SPEC, and which file it was */
	LEDGER_TRACKED =
		7, /* of the memory with this id: what its file looked like at the last look */
	LEDGER_CONSUMER = 8, /* who wants to know what was written, by slot */
	LEDGER_DIRTY = 9,    /* of the consumer with this id: where its maps lie */
	LEDGER_OWN = 64,     /* and 15 more: the embedder's */
};
