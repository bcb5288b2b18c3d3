/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Fuzz target: ufdd.conf. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "config.h"
#include "fuzz/fuzz.h"

#define PATH "/proc/self/fd/"

static void on_report(void *userdata, bool is_error, const char *text)
{
	unsigned int *n_errors = userdata;

	FUZZ_ASSERT(strncmp(text, PATH, strlen(PATH)) == 0);
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
	unsigned int n_errors = 0;
	char path[64];
	int fd, r;

	fd = memfd_create("ufdd.conf", MFD_CLOEXEC);
	FUZZ_ASSERT(fd >= 0 && write(fd, bytes, n_bytes) == (ssize_t)n_bytes);
	snprintf(path, sizeof(path), PATH "%d", fd);
	r = config_load(&config, path, true, on_report, &n_errors);
	FUZZ_ASSERT((r < 0) == (n_errors > 0));
	check(&config);
	close(fd);
	return 0;
}
