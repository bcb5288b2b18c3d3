/* SPDX-License-Identifier: MIT */
/*
 * The C library's functions that make and unmake guest memory, called in its place.
 *
 * Not here: madvise(), of which the kernel tells the daemon itself, and what no VMM does to guest
 * memory (mprotect, msync and so on change nothing for us).
 */
/* with it the header calls mmap() mmap64(), and both are to be defined */
#undef _FILE_OFFSET_BITS

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "preload/preload.h"

#define EXPORT __attribute__((visibility("default")))

/* Others may have been put before the C library, too; the next one is theirs. */
#define NEXT(name, ...)                                                                           \
	({                                                                                        \
		static __typeof__(name) *next_##name;                                             \
		__typeof__(name) *found_##name = __atomic_load_n(&next_##name, __ATOMIC_RELAXED); \
		if (!found_##name) {                                                              \
			found_##name = (__typeof__(name) *)dlsym(RTLD_NEXT, #name);               \
			__atomic_store_n(&next_##name, found_##name, __ATOMIC_RELAXED);           \
		}                                                                                 \
		found_##name(__VA_ARGS__);                                                        \
	})

EXPORT void *mmap(void *address, size_t length, int prot, int flags, int fd, off_t offset)
{
	struct view view = { address, length, prot, flags, fd, offset };
	void *made;

	if (!preload_is_on())
		return NEXT(mmap, address, length, prot, flags, fd, offset);
	if ((flags & MAP_FIXED) && preload_forget(address, length) < 0)
		return MAP_FAILED;
	if (!preload_wants(&view))
		return NEXT(mmap, address, length, prot, flags, fd, offset);

	/* its pages come from elsewhere: none may be there before they are asked for */
	made = NEXT(mmap, address, length, prot, flags & ~MAP_POPULATE, fd, offset);
	if (made == MAP_FAILED)
		return made;
	view.address = made;
	if (preload_hand_over(&view) < 0) {
		int error = errno;

		syscall(SYS_munmap, made, length);
		errno = error;
		return MAP_FAILED;
	}
	return made;
}

EXPORT void *mmap64(void *address, size_t length, int prot, int flags, int fd, off64_t offset)
	__attribute__((alias("mmap")));

EXPORT int munmap(void *address, size_t length)
{
	if (preload_is_on() && preload_forget(address, length) < 0)
		return -1;
	return NEXT(munmap, address, length);
}

/* The kernel would let the moved pages go unserved: what is absent would read zero. */
EXPORT void *mremap(void *address, size_t length, size_t new_length, int flags, ...)
{
	void *target = NULL;
	va_list arguments;

	va_start(arguments, flags);
	if (flags & MREMAP_FIXED)
		target = va_arg(arguments, void *);
	va_end(arguments);
	if (preload_is_on() && preload_holds(address, length)) {
		errno = EINVAL;
		return MAP_FAILED;
	}
	return NEXT(mremap, address, length, new_length, flags, target);
}

EXPORT int fallocate(int fd, int mode, off_t offset, off_t length)
{
	if ((mode & FALLOC_FL_PUNCH_HOLE) && preload_is_on() && offset >= 0 && length > 0 &&
	    preload_note_hole(fd, (uint64_t)offset, (uint64_t)length) < 0)
		return -1;
	return NEXT(fallocate, fd, mode, offset, length);
}

EXPORT int fallocate64(int fd, int mode, off64_t offset, off64_t length)
	__attribute__((alias("fallocate")));
