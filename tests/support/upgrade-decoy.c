/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A program that an upgrade must not fall for. What it does is its name (it is copied):
 *
 *	hang	  says nothing, and stays
 *	detach	  closes its stdout without a word, and stays
 *	chatter	  talks without end
 *	overlook  sees one guest less than there are
 *	vanish	  answers as it should, but the second time it is asked nobody can run it afterwards
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <signal.h>
#include <unistd.h>

static void answer(long n_guests)
{
	printf("{\"ufdd\":\"decoy\",\"layout\":1,\"oldest_layout\":1,\"adoptable\":%ld,"
	       "\"refused\":[]}\n",
	       n_guests);
}

static void vanish(const char *path, long n_guests)
{
	char mark[PATH_MAX + 8];

	snprintf(mark, sizeof(mark), "%s.asked", path);
	answer(n_guests);
	if (access(mark, F_OK) == 0)
		chmod(path, 0600);
	else
		fclose(fopen(mark, "w"));
}

int main(int argc, char **argv)
{
	const char *count = argc > 1 ? strchr(argv[1], '=') : NULL;
	long n_guests = count ? atol(count + 1) : 0;
	char path[PATH_MAX] = "";
	const char *name;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (readlink("/proc/self/exe", path, sizeof(path) - 1) < 0)
		return EXIT_FAILURE;
	name = strrchr(path, '/') + 1;
	if (strcmp(name, "detach") == 0)
		close(STDOUT_FILENO);
	if (strcmp(name, "hang") == 0 || strcmp(name, "detach") == 0)
		for (;;)
			pause();
	while (strcmp(name, "chatter") == 0)
		puts("and another thing");
	if (strcmp(name, "overlook") == 0)
		answer(n_guests ? n_guests - 1 : 0);
	if (strcmp(name, "vanish") == 0)
		vanish(path, n_guests);
	return EXIT_SUCCESS;
}
