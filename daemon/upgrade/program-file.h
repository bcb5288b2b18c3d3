/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The program to go back to, as a file in the state directory, for those whom no service manager keeps
 * an open file. Its name is that of the fd: `old` and a layout.
 *
 * What lies there is executed with our rights, so it must be ours or root's, and nobody else's to
 * write. It is executed from a copy in memory, for /run may be mounted noexec.
 *
 * Context: main thread; blocks for a copy of a few megabytes.
 */
#pragma once

/* Return: 0 or -errno. */
int program_file_save(const char *directory, const char *name, int program);

/* The one that is there. @ret_fd: owned by the caller. Return: 0, -ENOENT, -EPERM (not to be trusted), -errno. */
int program_file_load(const char *directory, char ret_name[static 16], int *ret_fd);

void program_file_remove(const char *directory, const char *name);
