/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The sockets of hand-offs under a service manager that keeps fds: no moment at which nobody listens. */
#include <poll.h>

#include "support/manager.h"
#include "test-rpc.h"

struct scene {
	struct manager manager;
	struct varlink_client *client;
	struct sockaddr_un address;
};

static void scene_connect(struct scene *scene)
{
	ck_assert_int_eq(varlink_client_connect(&scene->client, scene->manager.socket), 0);
}

static void scene_init(struct scene *scene, const char *store_max)
{
	*scene = (struct scene){ .manager.store_max = store_max };
	manager_init(&scene->manager);
	manager_start(&scene->manager);
	scene_connect(scene);
	scene->address.sun_family = AF_UNIX;
	snprintf(scene->address.sun_path, sizeof(scene->address.sun_path), "%s/vmm",
		 scene->manager.folder);
}

static void scene_done(struct scene *scene)
{
	varlink_client_free(scene->client);
	manager_stop(&scene->manager);
	manager_done(&scene->manager);
}

static json_t *create_call(const struct scene *scene)
{
	return json_pack("{s:s, s:s, s:i}", "path", scene->address.sun_path, "source", "zero",
			 "count", 5);
}

/* A VMM that speaks no dialect. */
static int visit(const struct scene *scene)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	ck_assert_int_eq(
		connect(fd, (const struct sockaddr *)&scene->address, sizeof(scene->address)), 0);
	ck_assert_int_eq(send(fd, "nonsense", 8, MSG_NOSIGNAL), 8);
	return fd;
}

static void await_end(int fd)
{
	struct pollfd waited = { .fd = fd, .events = POLLIN };
	char byte;

	ck_assert_int_eq(poll(&waited, 1, 20000), 1);
	ck_assert_int_le(recv(fd, &byte, 1, 0), 0);
	close(fd);
}

static json_int_t listed(struct scene *scene, const char *name)
{
	json_t *reply = service_ask(scene->client, "io.ufd.handoff.List", json_object(), NULL, 0);
	const json_t *first = json_array_get(json_object_get(reply, "handoffs"), 0);
	json_int_t value = json_integer_value(json_object_get(first, name));

	ck_assert_uint_eq(json_array_size(json_object_get(reply, "handoffs")), 1);
	json_decref(reply);
	return value;
}

START_TEST(who_connects_while_nobody_serves_waits)
{
	struct scene scene;
	int early, late;

	scene_init(&scene, "16");
	json_decref(
		service_ask(scene.client, "io.ufd.handoff.Create", create_call(&scene), NULL, 0));
	ck_assert(manager_has(&scene.manager, "h0"));
	ck_assert(manager_has(&scene.manager, "d0"));
	ck_assert_uint_eq(scene.manager.n_polled, 0);
	early = visit(&scene);
	await_end(early);
	ck_assert_int_eq(listed(&scene, "refused"), 1);

	manager_kill(&scene.manager);
	late = visit(&scene);
	varlink_client_free(scene.client);
	manager_start(&scene.manager);
	scene_connect(&scene);
	await_end(late);
	ck_assert_int_eq(listed(&scene, "refused"), 1);
	ck_assert_int_eq(listed(&scene, "count"), 5);

	json_decref(service_ask(scene.client, "io.ufd.handoff.Remove",
				json_pack("{s:s}", "path", scene.address.sun_path), NULL, 0));
	manager_await_lack(&scene.manager, "h0");
	manager_await_lack(&scene.manager, "d0");
	ck_assert_int_ne(access(scene.address.sun_path, F_OK), 0);
	scene_done(&scene);
}
END_TEST

START_TEST(one_that_would_not_be_kept_is_refused)
{
	_cleanup_(varlink_answer_done) struct varlink_answer answer = {};
	struct scene scene;

	scene_init(&scene, "1");
	service_call(scene.client, "io.ufd.handoff.Create", create_call(&scene), NULL, 0, &answer);
	ck_assert_str_eq(answer.error, "io.ufd.manager.LimitReached");
	ck_assert_str_eq(json_string_value(json_object_get(answer.parameters, "limit")),
			 "fd-store");
	ck_assert_int_ne(access(scene.address.sun_path, F_OK), 0);
	scene_done(&scene);
}
END_TEST

int main(void)
{
	return unit_run("handoff-store", (struct unit_test[]){
						 UNIT(who_connects_while_nobody_serves_waits),
						 UNIT(one_that_would_not_be_kept_is_refused),
						 {},
					 });
}
