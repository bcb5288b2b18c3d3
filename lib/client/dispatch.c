/* SPDX-License-Identifier: MIT */
/*
 * Looking after the connection.
 *
 * Theory of operation
 *
 * The polled fd is an epoll of the connection and a timer. While the guest is attached nothing is
 * expected from the daemon: a readable connection means its end. Then the guest is AWAY, and each
 * dispatch takes one step of enum recovery without waiting:
 *
 * - ask the daemon for the guest (Show). If it knows it, and it is ours, all is well: only the
 *   connection was lost, or the daemon restarted with what it knew;
 * - else hand everything over again. Existing pages count as present: they hold what the old daemon
 *   filled in (a fill is atomic) or what the guest wrote since. Others are absent as before, except
 *   those that were discarded; zeroing.c deals with them first. Threads that wait for the dead
 *   daemon are woken by the new one and ask it again.
 *
 * A wrong guess anywhere would be a wrong page, so whatever is not certain leaves the guest
 * stalled, is reported, and is tried again.
 */
#include "client/client.h"

#include <errno.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "client/zeroing.h"

#define FIRST_PAUSE_NS	 (10 * NSEC_PER_MSEC)
#define LONGEST_PAUSE_NS NSEC_PER_SEC
#define ONLY_LOOK_NS	 1 /* a deadline that has passed */
#define SEND_PATIENCE_NS NSEC_PER_SEC

/* Let the polled fd become readable after @after_ns, at once for 0. */
static void client_arm(struct ufd_client *client, uint64_t after_ns)
{
	struct itimerspec in = {
		.it_value = { .tv_sec = (time_t)(after_ns / NSEC_PER_SEC),
			      .tv_nsec = (long)(after_ns % NSEC_PER_SEC) },
	};

	if (after_ns == 0)
		in.it_value.tv_nsec = 1; /* zero would disarm */
	timerfd_settime(client->timer, 0, &in, NULL);
}

void client_disarm(struct ufd_client *client)
{
	static const struct itimerspec never;

	timerfd_settime(client->timer, 0, &never, NULL);
}

static void tell(struct ufd_client *client, enum ufd_client_event event)
{
	client->events |= 1u << event;
}

void client_lose(struct ufd_client *client)
{
	connection_close(&client->connection);
	if (client->state != UFD_CLIENT_ATTACHED)
		return;
	client->state = UFD_CLIENT_AWAY;
	client->recovery = RECOVERY_PAUSING;
	client->pause_ns = FIRST_PAUSE_NS;
	client->is_refusal_told = false;
	tell(client, UFD_CLIENT_LOST);
	if (!connection_has_way(&client->connection))
		tell(client, UFD_CLIENT_STRANDED);
	client_arm(client, 0); /* to be told, and to try at once */
}

/* Give up this attempt. */
static void pause_recovery(struct ufd_client *client)
{
	bool had_connection = client->connection.varlink != NULL;

	connection_close(&client->connection);
	client->recovery = RECOVERY_PAUSING;
	if (!connection_has_way(&client->connection)) {
		if (had_connection)
			tell(client, UFD_CLIENT_STRANDED);
		client_disarm(client);
		return;
	}
	client_arm(client, client->pause_ns);
	client->pause_ns = min_u64(2 * client->pause_ns, LONGEST_PAUSE_NS);
}

/* There is a daemon, but not for us. The error is set. */
static void refuse(struct ufd_client *client)
{
	if (!client->is_refusal_told)
		tell(client, UFD_CLIENT_REFUSED);
	client->is_refusal_told = true;
	client->pause_ns = LONGEST_PAUSE_NS;
	pause_recovery(client);
}

static void refuse_answer(struct ufd_client *client, const struct varlink_answer *answer)
{
	char text[VERDICT_TEXT_BYTES];
	int r;

	r = verdict_of_answer(answer, text);
	client_fail(client, r, "cannot attach guest %s again: %s", client->opts.guest, text);
	refuse(client);
}

static void recovered(struct ufd_client *client, const struct varlink_answer *answer,
		      enum ufd_client_event event)
{
	client_set_attached(client, answer);
	tell(client, event);
}

/*
 * Begin a call whose answer a later dispatch sees. Only a message that is bigger than the socket's
 * buffer (thousands of regions) waits, and only for a daemon that does not read.
 */
static void send_call(struct ufd_client *client, const char *method, const struct request *request,
		      enum recovery next)
{
	int r;

	r = varlink_client_send(client->connection.varlink, method, request->parameters,
				request->fds, request->n_fds, 0, clock_now_ns() + SEND_PATIENCE_NS);
	if (r < 0) {
		pause_recovery(client);
		return;
	}
	client->recovery = next;
	if (client->opts.timeout_ns == UFD_CLIENT_FOREVER)
		client_disarm(client);
	else
		client_arm(client, client->opts.timeout_ns);
}

static void step_pausing(struct ufd_client *client, bool is_due)
{
	_cleanup_(request_done) struct request request = {};

	if (!is_due || !connection_has_way(&client->connection))
		return;
	request.parameters = json_pack("{s:s}", "name", client->opts.guest);
	if (!request.parameters || connection_open(&client->connection) < 0) {
		pause_recovery(client);
		return;
	}
	send_call(client, "io.ufd.guest.Show", &request, RECOVERY_ASKING);
}

/* Return: is there an answer in @ret_answer? If not, all is done that can be. */
static bool next_answer(struct ufd_client *client, bool is_due, struct varlink_answer *ret_answer)
{
	int r;

	r = varlink_client_next(client->connection.varlink, ONLY_LOOK_NS, ret_answer);
	if (r == -ETIMEDOUT && !is_due)
		return false;
	if (r < 0)
		pause_recovery(client);
	return r == 0;
}

static void step_asking(struct ufd_client *client, bool is_due)
{
	_cleanup_(varlink_answer_done) struct varlink_answer answer = {};
	json_int_t pid, ours = client->pid_there ? client->pid_there : getpid();

	if (!next_answer(client, is_due, &answer))
		return;
	if (answer.error && strcmp(answer.error, "io.ufd.guest.NoSuchGuest") == 0) {
		client->recovery = RECOVERY_ZEROING;
		if (zeroing_find_complete(client) < 0)
			refuse(client);
		else
			client_arm(client, 0);
		return;
	}
	if (answer.error) {
		refuse_answer(client, &answer);
		return;
	}
	pid = json_integer_value(
		json_object_get(json_object_get(answer.parameters, "guest"), "pid"));
	if (pid != ours) {
		client_fail(client, -EEXIST, "guest %s is another process's now, pid %lld",
			    client->opts.guest, (long long)pid);
		refuse(client);
		return;
	}
	recovered(client, &answer, UFD_CLIENT_RESUMED);
}

static void step_zeroing(struct ufd_client *client)
{
	_cleanup_(request_done) struct request request = {};
	struct handover handover = client_handover(client);
	int r;

	r = zeroing_step(client);
	if (r == ZEROING_MORE) {
		client_arm(client, 0);
		return;
	}
	if (r < 0) {
		refuse(client);
		return;
	}
	if (request_attach(&request, &handover) < 0) {
		pause_recovery(client);
		return;
	}
	send_call(client, "io.ufd.guest.Attach", &request, RECOVERY_HANDING);
}

static void step_handing(struct ufd_client *client, bool is_due)
{
	_cleanup_(varlink_answer_done) struct varlink_answer answer = {};

	if (!next_answer(client, is_due, &answer))
		return;
	if (answer.error) {
		refuse_answer(client, &answer);
		return;
	}
	memories_set_handed_over(&client->memories);
	recovered(client, &answer, UFD_CLIENT_REATTACHED);
}

/* Nothing is expected from the daemon: what is readable is its end, or nonsense. */
static void look_at_connection(struct ufd_client *client)
{
	_cleanup_(varlink_answer_done) struct varlink_answer answer = {};

	if (client->connection.varlink &&
	    varlink_client_next(client->connection.varlink, ONLY_LOOK_NS, &answer) != -ETIMEDOUT)
		client_lose(client);
}

static void step_recovery(struct ufd_client *client, bool is_due)
{
	switch (client->recovery) {
	case RECOVERY_PAUSING:
		step_pausing(client, is_due);
		break;
	case RECOVERY_ASKING:
		step_asking(client, is_due);
		break;
	case RECOVERY_ZEROING:
		step_zeroing(client);
		break;
	case RECOVERY_HANDING:
		step_handing(client, is_due);
		break;
	}
}

/* In the order they happened: a guest is lost before it is anything else. */
static void tell_events(struct ufd_client *client)
{
	uint32_t events = client->events;

	client->events = 0;
	if (!client->opts.on_event)
		return;
	for (uint32_t event = UFD_CLIENT_LOST; event <= UFD_CLIENT_STRANDED; event++)
		if (events & 1u << event)
			client->opts.on_event(client, event, client->opts.userdata);
}

int ufd_client_dispatch(struct ufd_client *client)
{
	uint64_t n_expired;
	bool is_due;

	is_due = read(client->timer, &n_expired, sizeof(n_expired)) == sizeof(n_expired);
	if (client->state == UFD_CLIENT_AWAY)
		step_recovery(client, is_due);
	else
		look_at_connection(client);
	tell_events(client);
	return 0;
}

int ufd_client_reconnect(struct ufd_client *client, int connection)
{
	int r;

	if (client->connection.varlink)
		return client_fail(client, -EALREADY, "the connection stands");
	r = connection_set_inherited(&client->connection, connection);
	if (r == -EBADF)
		r = -ENOTSOCK;
	if (r < 0)
		return client_fail(client, r, "cannot reconnect: the fd is no socket");
	if (client->state == UFD_CLIENT_AWAY)
		client_arm(client, 0);
	return 0;
}
