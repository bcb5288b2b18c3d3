/* SPDX-License-Identifier: MIT */
/* Ownership of locals: each owning local names its destructor where it is declared. */
#pragma once

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* Run @fn on the address of the variable when it leaves its scope. */
#define _cleanup_(fn) __attribute__((__cleanup__(fn)))

/* Move ownership out of a local: the local forgets what it held. */
#define TAKE_PTR(p)                                  \
	({                                           \
		__typeof__(p) *_taken_from = &(p);   \
		__typeof__(p) _taken = *_taken_from; \
		*_taken_from = NULL;                 \
		_taken;                              \
	})
#define TAKE_FD(fd)                        \
	({                                 \
		int *_taken_from = &(fd);  \
		int _taken = *_taken_from; \
		*_taken_from = -EBADF;     \
		_taken;                    \
	})

static inline void freep(void *p)
{
	free(*(void **)p);
}

/* Closes an fd if there is one and keeps errno; -EBADF is "no fd". */
static inline void closep(const int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		close(*fd);
	errno = saved;
}

/* @fn takes NULL and half-built objects. */
#define DEFINE_CLEANUP(type, fn)           \
	static inline void fn##p(type **p) \
	{                                  \
		fn(*p);                    \
	}
