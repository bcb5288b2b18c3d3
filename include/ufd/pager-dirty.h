/* SPDX-License-Identifier: MIT */
/*
 * libufd-pager: which pages of a guest were written. Threads, lengths and errors are as ufd/pager.h
 * has them.
 *
 * Consumers want to know which pages were written: a snapshot, a migration, an operator. Each has a
 * name and reads epochs: what was written since the epoch that it acknowledged. The first consumer
 * arms the guest's tracker (option track), the last one to stop disarms it; a guest that is tracked
 * completes, but does not graduate. All of it is in the ledger: nothing is lost when the process
 * dies at any instruction.
 *
 * A page is reported if its content may differ from what it was at the consumer's baseline: stores
 * of the guest and writes of the kernel for it through any mapping of the guest, discards, writes
 * that were announced by ufd_pager_guest_note_write(). What the engine fills from the source is no
 * write, and absent pages are never reported. Not seen: writes through mappings that are not the
 * guest's or by write(2) into the backing that nobody announced (ufd_dirty_epoch.n_strange_writes
 * says that there may have been some, and then the whole memory is reported), and writes of devices
 * to pages that were pinned before the page was protected: pause the guest around
 * ufd_pager_guest_dirty_start() and ufd_pager_guest_dirty_read() if there may be such.
 */
#ifndef UFD_PAGER_DIRTY_H
#define UFD_PAGER_DIRTY_H

#include <stddef.h>
#include <stdint.h>

#include <ufd/pager.h>

#ifdef __cplusplus
extern "C" {
#endif

#define UFD_MAX_CONSUMERS 8
#define UFD_DIRTY_LAST	  UINT64_MAX /* acknowledges whatever epoch was read last */

/**
 * ufd_pager_guest_dirty_start() - a consumer whose baseline is now
 * @consumer: 1 to 63 bytes
 *
 * May be called before ufd_pager_guest_start(): then the baseline is the source, and what the guest
 * writes from its first instruction on is reported. Memories that come later are reported as far as
 * they held pages when they came. Blocks (for some 50 ms a GiB of small pages that exist; the guest
 * runs meanwhile).
 * Return: 0, -EEXIST (has started already), -EINVAL (name), -ENOSPC (UFD_MAX_CONSUMERS, or the
 *	   ledger is full), -EOPNOTSUPP (this kernel, or a uffd without the features, or a private
 *	   mapping of a file that others may write: ufd_pager_guest_dirty_refusal() says which),
 *	   -ESRCH (the guest has ended), -ENOMEM.
 */
int ufd_pager_guest_dirty_start(struct ufd_pager_guest *guest, const char *consumer);

/* Why the last start was refused, in words; valid until the next call on the guest. */
const char *ufd_pager_guest_dirty_refusal(const struct ufd_pager_guest *guest);

/* What it did not read is forgotten. Blocks (disarms, for the last one). Return: 0, -ENOENT. */
int ufd_pager_guest_dirty_stop(struct ufd_pager_guest *guest, const char *consumer);

/* Readable. What one read found; grows at the end. */
struct ufd_dirty_epoch {
	size_t size;
	uint64_t epoch;		     /* its number: 1 for the first */
	uint64_t dirty_bytes;	     /* all memories */
	uint64_t begun_ns, taken_ns; /* CLOCK_MONOTONIC: baseline, and when it was taken */
	uint64_t
		n_strange_writes; /* memories that are reported as a whole: their file was written, nobody knows where */
	uint64_t
		uncertain_bytes; /* of @dirty_bytes: perhaps not written, see docs/architecture.md */
};

/**
 * ufd_pager_guest_dirty_read() - what was written since the epoch before
 * @acknowledge: number of the epoch that the consumer has safely got, which is then forgotten;
 *		 UFD_DIRTY_LAST for the last one. The number before that (0 at first): the last
 *		 one did not arrive, and is part of this one.
 *
 * Blocks (1 to 2 ms a GiB if little was written). Return: 0, -ENOENT (no such consumer), -ESTALE
 * (@acknowledge is neither the last epoch nor the one before it), -ESRCH (the guest has ended: what
 * it wrote cannot be told any more), -errno.
 */
int ufd_pager_guest_dirty_read(struct ufd_pager_guest *guest, const char *consumer,
			       uint64_t acknowledge, struct ufd_dirty_epoch *ret);

/*
 * The epoch that was read last: one bit a page (of the memory's page size) from @first_page on,
 * into @words; until it is acknowledged the answer is the same. Any thread; does not block. Return:
 * 0, -ENOENT (consumer, memory).
 */
int ufd_pager_guest_dirty_bitmap(struct ufd_pager_guest *guest, const char *consumer,
				 uint32_t memory, uint64_t first_page, uint64_t *words,
				 size_t n_words);

/* Readable. */
struct ufd_consumer_info {
	size_t size;
	char name[UFD_NAME_BYTES];
	uint64_t epoch;	   /* read last; 0: none yet */
	uint64_t begun_ns; /* CLOCK_MONOTONIC */
	uint64_t
		unread_bytes; /* known to be dirty already; with track=scan the next read finds more */
};

/* The @index-th consumer. Return: 0, -ENOENT beyond the last. */
int ufd_pager_consumer_info(struct ufd_pager_guest *guest, uint32_t index,
			    struct ufd_consumer_info *ret);

#ifdef __cplusplus
}
#endif
#endif
