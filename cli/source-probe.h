/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Does a source's file give its bytes? Asked by a child, since a file system that hangs would hang
 * us as well; and whose file system it is.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum probe_result {
	PROBE_NOT_MADE,
	PROBE_READS, /* the bytes came */
	PROBE_ENDS,  /* the file ends before that offset */
	PROBE_FAILS, /* see @error */
	PROBE_HANGS, /* nothing came in time */
};

/* Readable. */
struct source_probe {
	enum probe_result result;
	int error;     /* positive errno */
	char why[512]; /* of an image: the sentence that names file and offset */
	uint64_t device, inode, length_bytes;
	int64_t modified_s, changed_s;
	uint32_t modified_ns, changed_ns;
};

/* Read a little at @offset; the bytes are forgotten at once. Waits for @patience_ns at most. */
void source_probe_run(struct source_probe *ret, const char *path, uint64_t offset,
		      uint64_t patience_ns);

/* The same of the image of a SPEC: its page at @offset of the memory, unpacked and checked. */
void source_probe_image(struct source_probe *ret, const char *spec, uint64_t offset,
			uint64_t patience_ns);

/*
 * An open file of @pid with this inode. @ret_open: a path that opens it again, in any namespace;
 * @ret_name: what it is called there. Asks no file system. Return: false if there is none.
 */
bool source_find_open(pid_t pid, uint64_t device, uint64_t inode, char ret_open[64], char *ret_name,
		      size_t n_name);

/* Readable. */
struct source_mount {
	char kind[32];	 /* file system: ext4, fuse, nfs4, ... */
	char point[512]; /* where it is mounted */
};

/* Of a device, as the mounts of @pid tell. Return: false if it is not mounted there. */
bool source_find_mount(pid_t pid, uint64_t device, struct source_mount *ret);

/* Which FUSE connection a fd of /dev/fuse serves; 0 if the kernel does not tell. */
uint64_t source_fuse_connection(pid_t pid, int fd);
