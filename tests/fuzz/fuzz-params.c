/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Fuzz target: the parameters of a call, through the interface and what reads them behind it. */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "attach/client.h"
#include "fuzz/fuzz.h"
#include "refusal.h"
#include "settings.h"
#include "wire/frame.h"
#include "wire/idl.h"
#include "wire/interfaces.h"
#include "wire/varlink.h"

enum { N_FDS = 4 };

static struct idl *idls[8];
static int fds[N_FDS];

static void begin(void)
{
	if (idls[0])
		return;
	for (size_t i = 0; wire_interfaces[i].name; i++)
		FUZZ_ASSERT(idl_parse(&idls[i], wire_interfaces[i].text, NULL) == 0);
	fds[0] = memfd_create("ram", MFD_CLOEXEC);
	FUZZ_ASSERT(ftruncate(fds[0], 1 << 30) == 0);
	fds[1] = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	FUZZ_ASSERT(fcntl(fds[1], F_ADD_SEALS, F_SEAL_WRITE) == 0);
	fds[2] = open("/dev/null", O_RDWR | O_CLOEXEC);
	fds[3] = -EBADF;
}

static void refused(struct refusal *refusal)
{
	FUZZ_ASSERT(refusal->error[0] && json_is_object(refusal->parameters));
	refusal_done(refusal);
}

/* What the daemon does with an Attach before it touches the process. */
static void attach(const json_t *parameters)
{
	const json_t *uffd = json_object_get(parameters, "uffd");
	struct settings settings = settings_built_in();
	struct refusal refusal = {};
	struct plan plan = {};
	const char *wrong = NULL;
	json_t *shown;

	if (settings_apply(&settings, json_object_get(parameters, "settings"), &wrong) < 0)
		FUZZ_ASSERT(wrong);
	shown = settings_to_json(&settings);
	FUZZ_ASSERT(settings_apply(&settings, shown, &wrong) == 0);
	json_decref(shown);

	if (json_is_integer(uffd))
		FUZZ_ASSERT(client_check_uffd(fds[json_integer_value(uffd) & (N_FDS - 1)], 0,
					      settings.track == SETTINGS_TRACK_WP, &refusal) < 0);
	if (refusal.parameters)
		refused(&refusal);
	FUZZ_ASSERT(client_check_pagemap(fds[0], 0, &refusal) < 0);
	refused(&refusal);

	if (client_plan(json_object_get(parameters, "regions"), fds, N_FDS, false, &plan,
			&refusal) < 0)
		refused(&refusal);
	else
		FUZZ_ASSERT(plan.n_memories && plan.n_mappings >= plan.n_memories);
	plan_done(&plan);
}

static void check(const struct idl *idl, const char *method, const json_t *parameters)
{
	const char *field = NULL;
	int r;

	r = idl_check(idl, method, IDL_INPUT, parameters, &field);
	FUZZ_ASSERT((r == 0 || r == IDL_NO_MEMBER) == (field == NULL));
	if (r == 0 && (strcmp(method, "Attach") == 0 || strcmp(method, "AddRegions") == 0))
		attach(parameters);
	idl_check(idl, method, IDL_OUTPUT, parameters, &field);
	idl_check(idl, method, IDL_ERROR, parameters, &field);
}

/* What is no message may be an interface. */
static void read_interface(const uint8_t *bytes, size_t n_bytes)
{
	char *text = malloc(n_bytes + 1);
	unsigned int line = 0;
	struct idl *idl;

	FUZZ_ASSERT(text);
	if (n_bytes)
		memcpy(text, bytes, n_bytes);
	text[n_bytes] = '\0';
	if (idl_parse(&idl, text, &line) < 0) {
		FUZZ_ASSERT(line > 0);
	} else {
		FUZZ_ASSERT(idl_name(idl));
		for (size_t i = 0; idl_method(idl, i); i++)
			FUZZ_ASSERT(idl_method(idl, i)[0]);
		for (size_t i = 0; idl_error(idl, i); i++)
			FUZZ_ASSERT(idl_error(idl, i)[0]);
		idl_free(idl);
	}
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
	struct frame_reader reader = {};
	struct frame frame = {};
	struct varlink_call call;
	const char *dot;

	if (n_bytes == 0 || bytes[0] != '{')
		read_interface(bytes, n_bytes);
	begin();
	FUZZ_ASSERT(frame_reader_feed(&reader, bytes, n_bytes, NULL, 0) == 0);
	FUZZ_ASSERT(frame_reader_feed(&reader, "", 1, NULL, 0) == 0);
	if (frame_reader_next(&reader, &frame) == 0 &&
	    varlink_call_parse(frame.message, &call) == 0 && (dot = strrchr(call.method, '.')))
		for (size_t i = 0; wire_interfaces[i].name; i++)
			check(idls[i], dot + 1, call.parameters);
	frame_done(&frame);
	frame_reader_done(&reader);
	return 0;
}
