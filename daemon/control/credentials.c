/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who may do what. */
#include "control/credentials.h"

#include <errno.h>
#include <sys/socket.h>

int credentials_of_socket(int socket, struct credentials *ret)
{
	struct ucred peer;
	socklen_t n_peer = sizeof(peer);

	if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &n_peer) < 0)
		return -errno;
	*ret = (struct credentials){ .pid = peer.pid, .uid = peer.uid, .gid = peer.gid };
	return 0;
}

bool credentials_are_admin(const struct credentials *credentials, uid_t own)
{
	return credentials->uid == 0 || credentials->uid == own;
}

bool credentials_may(const struct credentials *credentials, uid_t own, enum access access)
{
	return access != ACCESS_ADMIN || credentials_are_admin(credentials, own);
}

bool credentials_may_touch(const struct credentials *credentials, uid_t own, uid_t owner)
{
	return credentials_are_admin(credentials, own) || credentials->uid == owner;
}

bool credentials_may_name_paths(const struct credentials *credentials, uid_t own)
{
	return credentials_are_admin(credentials, own);
}
