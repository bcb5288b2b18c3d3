/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The calls of wrapped functions, from the disassembly. */
#include "inject/coverage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_MISSED 512

static const char *const calls[] = { "malloc",
				     "calloc",
				     "realloc",
				     "reallocarray",
				     "strdup",
				     "strndup",
				     "mmap64",
				     "ioctl",
				     "memfd_create",
				     "eventfd",
				     "ftruncate64",
				     "pthread_create",
				     "io_uring_queue_init_params",
				     "io_uring_submit_and_get_events",
				     "io_uring_submit_and_wait_timeout" };

static struct {
	uint32_t address;
	char function[64];
	char call[40];
} missed[N_MISSED];
static unsigned int n_missed;

static bool is_looked_for(const char *call)
{
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		if (strcmp(calls[i], call) == 0)
			return true;
	return false;
}

static bool is_listed(const char *function, const char *const *list)
{
	for (; *list; list++)
		/* the compiler makes f.constprop.0, f.part.0 and the like of f */
		if (strncmp(function, *list, strlen(*list)) == 0 &&
		    strchr(".", function[strlen(*list)]))
			return true;
	return false;
}

static void miss(const char *function, const char *call, uint32_t address)
{
	if (n_missed == N_MISSED)
		return;
	missed[n_missed].address = address;
	snprintf(missed[n_missed].function, sizeof(missed[0].function), "%s", function);
	snprintf(missed[n_missed++].call, sizeof(missed[0].call), "%s", call);
}

/* Return: calls of wrapped functions, reached or not. */
static unsigned int read_code(FILE *code, coverage_is_reached is_reached, const char *const *unless)
{
	char line[1024], function[64] = "", call[40] = "";
	unsigned int n = 0;

	while (fgets(line, sizeof(line), code)) {
		unsigned long address;
		char name[64];

		if (sscanf(line, "%lx <%63[^>]>:", &address, name) == 2)
			strcpy(function, name);
		if (sscanf(line, " %lx:", &address) != 1 || line[0] != ' ')
			continue;
		if (call[0] && !is_listed(function, unless) && !is_reached(call, (uint32_t)address))
			miss(function, call, (uint32_t)address);
		call[0] = '\0';
		if (strstr(line, "call") && strstr(line, "<__wrap_") &&
		    sscanf(strstr(line, "<__wrap_"), "<__wrap_%39[^>]>", call) == 1) {
			n++;
			if (!is_looked_for(call))
				call[0] = '\0';
		}
	}
	return n;
}

/* Tests link calls of their own: only those of the house count. */
static bool is_of_the_house(const char *program, unsigned int i, char *place, size_t n_place)
{
	char command[640];
	FILE *answer;
	bool is_read;

	snprintf(command, sizeof(command), "addr2line -e %s %#x", program, missed[i].address - 1);
	answer = popen(command, "re");
	is_read = answer && fgets(place, (int)n_place, answer);
	if (answer)
		pclose(answer);
	return is_read && (strstr(place, "/lib/") || strstr(place, "/daemon/"));
}

int coverage_report(const char *program, coverage_is_reached is_reached, const char *const *unless)
{
	char command[640], place[512];
	unsigned int n_calls;
	FILE *code;
	int n = 0;

	snprintf(command, sizeof(command), "objdump -d --no-show-raw-insn %s", program);
	code = popen(command, "re");
	if (!code)
		return -1;
	n_missed = 0;
	n_calls = read_code(code, is_reached, unless);
	if (pclose(code) != 0 || n_calls == 0)
		return -1;
	for (unsigned int i = 0; i < n_missed; i++) {
		if (!is_of_the_house(program, i, place, sizeof(place)))
			continue;
		printf("# %s() calls %s at %s", missed[i].function, missed[i].call, place);
		n++;
	}
	return n;
}
