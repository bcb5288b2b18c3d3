/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who is at the other end of a connection, and what they may do. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

/* Readable. As the kernel tells it: the process that connected, at that moment. */
struct credentials {
	pid_t pid;
	uid_t uid;
	gid_t gid;
};

/* What a method asks for. */
enum access {
	ACCESS_READ,  /* whoever may connect: the socket's mode decides */
	ACCESS_GUEST, /* whoever may connect begins; the method asks about the one guest by
			 credentials_may_touch() */
	ACCESS_ADMIN, /* root and the user ufdd runs as */
};

/* Return: 0 or -errno. Context: any. */
int credentials_of_socket(int socket, struct credentials *ret);

/* @own: the user ufdd runs as. Context: any of these: any. */
bool credentials_are_admin(const struct credentials *credentials, uid_t own);
bool credentials_may(const struct credentials *credentials, uid_t own, enum access access);

/* A guest whose process belongs to @owner: administrators and that user. */
bool credentials_may_touch(const struct credentials *credentials, uid_t own, uid_t owner);

/* Paths are opened with our rights, so only those who have them anyway may name one. */
bool credentials_may_name_paths(const struct credentials *credentials, uid_t own);
