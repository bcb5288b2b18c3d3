/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a QEMU's monitor says of the guest: does it run, or who paused it? */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * The Unix socket of the QMP monitor that stands on the command line of @pid (-qmp, or -chardev
 * with -mon; in the mount namespace of @pid, so it is looked up there). Return: false if there is none.
 */
bool monitor_find(pid_t pid, char *ret_path, size_t n_path);

/**
 * monitor_ask() - its run state: running, paused, inmigrate, io-error, ...
 *
 * A monitor talks to one client at a time; when it is taken, nothing comes.
 * Return: false if it did not answer in time.
 */
bool monitor_ask(const char *path, uint64_t patience_ns, char *ret_state, size_t n_state);
