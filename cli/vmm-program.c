/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whom LD_PRELOAD reaches: the dynamic linker reads it, and only where a program does not run with
 * more rights than who started it (AT_SECURE, as the kernel says).
 */
#include "vmm-program.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/cleanup.h"

#define INSTEAD "let it start by itself, then attach: ufdctl guest attach --pid, or --qmp"

static bool is_program(const char *path)
{
	struct stat info;

	return stat(path, &info) == 0 && S_ISREG(info.st_mode) && access(path, X_OK) == 0;
}

int vmm_program_find(const char *name, char *ret_path)
{
	const char *path = getenv("PATH"), *end;

	if (strlen(name) >= PATH_MAX)
		return -ENOENT;
	if (strchr(name, '/')) {
		strcpy(ret_path, name);
		return is_program(name) ? 0 : access(name, F_OK) ? -ENOENT : -EACCES;
	}
	for (path = path ? path : "/usr/bin:/bin"; path; path = *end ? end + 1 : NULL) {
		end = strchrnul(path, ':');
		if (snprintf(ret_path, PATH_MAX, "%.*s/%s", (int)(end - path), path, name) <
			    PATH_MAX &&
		    is_program(ret_path))
			return 0;
	}
	return -ENOENT;
}

static int refuse(char *ret_why, size_t n_why, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
static int refuse(char *ret_why, size_t n_why, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(ret_why, n_why, format, arguments);
	va_end(arguments);
	return -EPERM;
}

/* Would the kernel call it more privileged than us? */
static int check_rights(int fd, const char *path, char *ret_why, size_t n_why)
{
	struct stat info;

	if (fstat(fd, &info) < 0)
		return -errno;
	if ((info.st_mode & S_ISUID) && info.st_uid != getuid())
		return refuse(ret_why, n_why,
			      "%s is set-user-ID, so LD_PRELOAD is ignored: start it as user %u, "
			      "or " INSTEAD,
			      path, info.st_uid);
	if ((info.st_mode & S_ISGID) && (info.st_mode & S_IXGRP) && info.st_gid != getgid())
		return refuse(ret_why, n_why,
			      "%s is set-group-ID, so LD_PRELOAD is ignored: start it as group %u, "
			      "or " INSTEAD,
			      path, info.st_gid);
	if (getuid() != 0 && fgetxattr(fd, "security.capability", NULL, 0) > 0)
		return refuse(ret_why, n_why,
			      "%s has file capabilities, so LD_PRELOAD is ignored: start it with "
			      "ambient capabilities instead (setpriv), or " INSTEAD,
			      path);
	return 0;
}

/* The interpreter that a script names in its first line. */
static int check_script(const char *line, char *ret_why, size_t n_why)
{
	char interpreter[PATH_MAX];

	if (sscanf(line + 2, " %4095s", interpreter) != 1)
		return -ENOEXEC;
	return vmm_program_check(interpreter, ret_why, n_why);
}

/* The dynamic linker that it asks for. Return: 0, -ENOENT if it asks for none, other -errno. */
static int read_linker(int fd, const Elf64_Ehdr *head, char *ret, size_t n_ret)
{
	for (unsigned int i = 0; i < head->e_phnum; i++) {
		Elf64_Phdr part;
		ssize_t n;

		n = pread(fd, &part, sizeof(part),
			  (off_t)(head->e_phoff + (uint64_t)i * head->e_phentsize));
		if (n != sizeof(part))
			return -ENOEXEC;
		if (part.p_type != PT_INTERP)
			continue;
		n = pread(fd, ret, part.p_filesz < n_ret ? part.p_filesz : n_ret - 1,
			  (off_t)part.p_offset);
		if (n <= 0)
			return -ENOEXEC;
		ret[n] = '\0';
		return 0;
	}
	return -ENOENT;
}

int vmm_program_check(const char *path, char *ret_why, size_t n_why)
{
	_cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
	union {
		Elf64_Ehdr head;
		char line[512];
	} begin = {};
	char linker[PATH_MAX];
	int r;

	if (fd < 0)
		return -errno;
	if (read(fd, &begin, sizeof(begin) - 1) < 4)
		return -ENOEXEC;
	r = check_rights(fd, path, ret_why, n_why);
	if (r < 0)
		return r;
	if (memcmp(begin.line, "#!", 2) == 0)
		return check_script(begin.line, ret_why, n_why);
	if (memcmp(begin.head.e_ident, ELFMAG, SELFMAG) ||
	    begin.head.e_ident[EI_CLASS] != ELFCLASS64)
		return refuse(ret_why, n_why,
			      "%s is no 64-bit program of this machine, so nothing of ours can be "
			      "put into it",
			      path);
	r = read_linker(fd, &begin.head, linker, sizeof(linker));
	if (r == -ENOENT)
		return refuse(
			ret_why, n_why,
			"%s is linked statically, so LD_PRELOAD is ignored: take a build that "
			"is linked dynamically, have the VMM hand its memory over itself "
			"(ufd-protocol(7)), or " INSTEAD,
			path);
	if (r == 0 && strstr(linker, "musl"))
		return refuse(ret_why, n_why,
			      "%s is linked to another C library (%s), which cannot load "
			      "libufd-preload.so: take a build for the GNU C library, or " INSTEAD,
			      path, linker);
	return r;
}
