/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Offer of io.ufd.guest: a userfaultfd for whoever brings this process later. */
#include <errno.h>
#include <string.h>

#include "attach/client.h"
#include "attach/offers.h"
#include "control/call.h"
#include "control/control.h"
#include "control/methods-guest.h"
#include "log.h"
#include "refusal.h"
#include "registry.h"

int front_end_of_call(const struct call *call, enum front_end *ret, struct refusal *refusal)
{
	const char *word = json_string_value(json_object_get(call->parameters, "front_end"));

	if (!word || strcmp(word, "client") == 0)
		*ret = FRONT_END_CLIENT;
	else if (strcmp(word, "preload") == 0)
		*ret = FRONT_END_PRELOAD;
	else
		return refusal_set(refusal, "org.varlink.service.InvalidParameter",
				   json_pack("{s:s}", "parameter", "front_end"),
				   "a process hands itself over as client or preload");
	return 0;
}

int method_offer(struct control *control, struct call *call, struct refusal *refusal)
{
	json_int_t index = json_integer_value(json_object_get(call->parameters, "uffd"));
	struct offers *offers = &registry_engine(control->registry)->offers;
	enum front_end front_end;
	int uffd, r;

	r = front_end_of_call(call, &front_end, refusal);
	if (r == 0)
		r = call_borrow_fd(call, index, &uffd, refusal);
	if (r == 0)
		r = client_check_uffd(uffd, index, false, refusal);
	if (r == 0)
		r = offers_put(offers, call->connection, call->sender, uffd, front_end);
	if (r < 0)
		return r;
	log_debug(LOG_SWITCH_CONTROL, LOG_FIELDS(), "process %d offers its userfaultfd",
		  call->sender);
	call_reply(call, NULL);
	return 0;
}
