/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the kernel does, as a manual page: the table of ufdctl probe behind the words of stdin.
 *
 * Runs when the documentation is built; scdoc reads what it writes.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "probe/probe.h"

/* scdoc takes these for marks of its own. */
static void write_text(const char *text)
{
	for (; *text; text++) {
		if (strchr("\\*_<>`#[]|", *text))
			putchar('\\');
		putchar(*text);
	}
}

static void write_heading(enum probe_group group)
{
	printf("\n# ");
	for (const char *at = probe_group_name(group); *at; at++)
		putchar(toupper((unsigned char)*at));
	printf("\n\nThis group is about: ");
	write_text(probe_group_title(group));
	printf(".\n");
}

static void write_known(const struct probe_check *check)
{
	for (size_t i = 0; i < sizeof(check->known) / sizeof(check->known[0]); i++) {
		if (!check->known[i].since)
			return;
		printf("%sLinux %u.%u: ", i || check->wanted ? "; " : "",
		       check->known[i].since >> 16, check->known[i].since & 0xffff);
		write_text(check->known[i].answer);
	}
}

static void write_check(const struct probe_check *check)
{
	printf("\n*%s*\n\t", check->id);
	write_text(check->title);
	printf(".%s", check->is_needed ? " Needed." : "");
	if (check->wanted || check->known[0].since) {
		printf("++\n");
		if (check->wanted) {
			printf("Wanted: ");
			write_text(check->wanted);
		}
		write_known(check);
		printf(".");
	}
	if (check->consequence) {
		printf("++\nOtherwise: ");
		write_text(check->consequence);
		printf(".");
	}
	if (check->remedy) {
		printf("++\nRemedy: ");
		write_text(check->remedy);
		printf(".");
	}
	putchar('\n');
}

int main(void)
{
	const struct probe_check *const *checks;
	int group = -1, letter;
	size_t n;

	while ((letter = getchar()) != EOF)
		putchar(letter);
	checks = probe_checks(&n);
	for (size_t i = 0; i < n; i++) {
		if ((int)checks[i]->group != group)
			write_heading(checks[i]->group);
		group = (int)checks[i]->group;
		write_check(checks[i]);
	}
	return ferror(stdout) || fflush(stdout) ? 1 : 0;
}
