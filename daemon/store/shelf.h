/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Ledgers as files in a directory on a tmpfs. Context of all: main thread or job. */
#pragma once

#include <stddef.h>
#include <sys/types.h>

/* Readable. */
struct shelf_file {
	char *path; /* owned */
	int fd;	    /* owned; read and write; -EBADF if there were too many to open it */
	dev_t device;
	ino_t inode;
};
void shelf_files_free(struct shelf_file *files, size_t n_files);

/*
 * Made if missing, for its owner only, and locked as long as @ret_fd (owned by the caller) is open.
 * Return: 0, -EMEDIUMTYPE (no tmpfs), -EPERM (others may change it), -EBUSY (somebody else has it),
 * -ENOTDIR, -errno.
 */
int shelf_open(const char *path, int *ret_fd);

/* Every regular file of ours whose name ends in `.ledger`, also what cannot be opened
 * for want of an fd. @ret: owned array. Return: 0 or -errno. */
int shelf_list(int shelf, const char *path, struct shelf_file **ret, size_t *ret_n);

/*
 * A copy of the ledger as the file that the guest's own would be; holes stay holes of nothing written,
 * but have their room. It gets its name when it is whole. Return: 0, -ENOSPC, -errno.
 */
int shelf_copy(int shelf, int ledger, const char *guest_name);

/* The file that a former process wrote for this guest; not if it is @ledger itself. */
void shelf_remove_older(int shelf, const char *guest_name, int ledger);

/* Remove the file of this inode, if one has it. */
void shelf_remove(int shelf, dev_t device, ino_t inode);
