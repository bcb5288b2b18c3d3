/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Fuzz target: ufdd.conf. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "fuzz/fuzz.h"

static void on_report(void *userdata, bool is_error, const char *text)
{
	unsigned int *n_errors = userdata;

	FUZZ_ASSERT(strncmp(text, "f:", 2) == 0);
	*n_errors += is_error;
}

/* Everything that is accepted is within its bounds. */
static void check(const struct config *config)
{
	UFD_OPTS(ufd_pager_guest_opts, opts);

	FUZZ_ASSERT(config->socket[0] == '/' && strlen(config->socket) < sizeof(config->socket));
	FUZZ_ASSERT(config->n_connections && config->n_guests && config->n_jobs);
	settings_to_opts(&config->defaults, &opts);
	FUZZ_ASSERT(opts.policy <= UFD_POLICY_KILL && opts.track <= UFD_TRACK_WP);
	FUZZ_ASSERT(opts.populated <= UFD_POPULATED_KEEP && opts.no_background <= 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
	struct config config = config_built_in();
	char *text = malloc(n_bytes + 1);
	unsigned int n_errors = 0;
	int r;

	FUZZ_ASSERT(text);
	if (n_bytes)
		memcpy(text, bytes, n_bytes);
	text[n_bytes] = '\0';
	r = config_parse(&config, "f", text, on_report, &n_errors);
	FUZZ_ASSERT((r < 0) == (n_errors > 0));
	check(&config);
	free(text);
	return 0;
}
