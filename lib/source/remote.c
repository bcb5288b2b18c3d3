/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files that somebody else answers for. */
#include "source/remote.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "base/files.h"

int remote_stat(int fd, struct statx *ret)
{
	struct statx found;

	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_BASIC_STATS | STATX_MNT_ID,
		  &found) < 0)
		return -errno;
	*ret = found;
	return 0;
}

/* "35 31 0:32 / /mnt rw - fuse.sshfs host: rw": the word behind the dash. */
static bool is_kind_remote(const char *line)
{
	static const char *const kinds[] = { "fuse",	  "nfs",    "cifs",	"smb",	   "9p",
					     "ceph",	  "afs",    "virtiofs", "ocfs",	   "gfs",
					     "glusterfs", "lustre", "coda",	"orangefs" };
	const char *kind = strstr(line, " - ");

	/* block devices under fuseblk are FUSE's, too */
	for (size_t i = 0; kind && i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (strncmp(kind + 3, kinds[i], strlen(kinds[i])) == 0)
			return true;
	return !kind;
}

bool remote_is(int fd)
{
	_cleanup_(fclosep) FILE *file = NULL;
	unsigned long long id;
	struct statfs system;
	struct statx info;
	char line[4096];

	if (fcntl(fd, F_GET_SEALS) >= 0) /* a memfd has no mount, and only memory can be sealed */
		return false;
	if (remote_stat(fd, &info) < 0)
		return true;
	if (S_ISBLK(info.stx_mode))
		return false;
	file = fopen("/proc/self/mountinfo", "re");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "%llu ", &id) == 1 && id == info.stx_mnt_id)
			return is_kind_remote(line);
	/* mounted elsewhere; FUSE answers for itself unless it lets us in */
	return fstatfs(fd, &system) < 0 || system.f_type == FUSE_SUPER_MAGIC ||
	       system.f_type == NFS_SUPER_MAGIC;
}
