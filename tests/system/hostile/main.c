/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a hostile VMM or client does to others: every row is an attack, see scene.h. */
#include "attacks.h"
#include "support/unit.h"

#define ATTACKS(table)                  \
	START_TEST(table##_hurt_nobody) \
	{                               \
		scene_play(&table[_i]); \
	}                               \
	END_TEST

ATTACKS(attacks_with_fds)
ATTACKS(attacks_with_claims)
ATTACKS(attacks_by_flood)
ATTACKS(attacks_by_target)
ATTACKS(attacks_with_files)
ATTACKS(attacks_at_limits)

static struct unit_test table_of(const char *name, const TTest *test, const struct attack *attacks)
{
	int n = 0;

	while (attacks[n].name)
		n++;
	return (struct unit_test){ name, test, n };
}

#define TABLE(table) table_of(#table, table##_hurt_nobody, table)

int main(void)
{
	return unit_run("hostile", (struct unit_test[]){
					   TABLE(attacks_with_fds),
					   TABLE(attacks_with_claims),
					   TABLE(attacks_by_flood),
					   TABLE(attacks_by_target),
					   TABLE(attacks_with_files),
					   TABLE(attacks_at_limits),
					   {},
				   });
}
