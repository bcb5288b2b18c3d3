/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What was left, and is somebody's again. */
#include "store/left.h"

#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#include "guest/ledger.h"
#include "store/bundle.h"
#include "store/refetch.h"

bool left_is_ledger(int fd)
{
	struct stat info;

	return fstat(fd, &info) == 0 && S_ISREG(info.st_mode) &&
	       (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR;
}

static bool has_uffd(const struct ufd_handle *handles, size_t n_handles, uint64_t wanted)
{
	uint64_t inode;

	for (size_t i = 0; i < n_handles; i++)
		if (handles[i].kind == UFD_HANDLE_UFFD &&
		    refetch_uffd_inode(handles[i].fd, &inode) == 0 && inode == wanted)
			return true;
	return false;
}

bool left_has_same_uffd(int bundle, int other)
{
	struct ufd_handle handles[UFD_MAX_HANDLES], others[UFD_MAX_HANDLES];
	size_t n_handles = 0, n_others = 0;
	bool is_same = false;
	uint64_t inode;

	if (bundle_read(bundle, handles, &n_handles) == 0 &&
	    bundle_read(other, others, &n_others) == 0)
		for (size_t i = 0; i < n_handles; i++)
			is_same |= handles[i].kind == UFD_HANDLE_UFFD &&
				   refetch_uffd_inode(handles[i].fd, &inode) == 0 &&
				   has_uffd(others, n_others, inode);
	bundle_close_handles(handles, n_handles);
	bundle_close_handles(others, n_others);
	return is_same;
}

bool left_has_same_name(int ledger, int other)
{
	char name[LEDGER_NAME_BYTES], other_name[LEDGER_NAME_BYTES];

	return ledger >= 0 && other >= 0 && ledger_fd_guest_name(ledger, name) == 0 &&
	       ledger_fd_guest_name(other, other_name) == 0 && strcmp(name, other_name) == 0;
}
