/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A process beside a soak guest that has the daemon page it by its pid, as an operator would. */
#pragma once

struct soak_memory;
struct soak_way;

/*
 * Forks. The child returns, and is the guest; the parent is the attendant, and ends with the
 * child's exit status. Return: the guest's end of a socket.
 */
int soak_attendant_start(const struct soak_way *way);

/* Of the guest: have @memory paged; have everything filled and paging ended. Either blocks. */
void soak_attendant_arrive(int attendant, const struct soak_memory *memory);
void soak_attendant_leave(int attendant);
