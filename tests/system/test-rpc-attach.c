/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Attach of io.ufd.guest, spoken raw: what a good call does, and whose memory it may be. */
#include "test-rpc-vmm.h"

#include <poll.h>
#include <pthread.h>

#include "kernel/proc-maps.h"

START_TEST(a_guest_is_served_shown_and_let_go)
{
	struct vmm vmm;
	json_t *reply, *memory;

	vmm_begin(&vmm);
	attach_well(&vmm);
	for (uint64_t i = 0; i < N_PAGES / 2; i++)
		ck_assert_uint_eq(vmm.bytes[i * PAGE + (i * 7) % PAGE], i + 1);

	reply = service_ask(vmm.client, "io.ufd.guest.Show", json_pack("{s:s}", "name", "g"), NULL,
			    0);
	memory = json_array_get(json_object_get(reply, "memories"), 0);
	ck_assert_str_eq(json_string_value(json_object_get(memory, "kind")), "shmem");
	ck_assert_str_eq(json_string_value(json_object_get(memory, "source")), "file:");
	ck_assert_int_eq(json_integer_value(json_object_get(memory, "present_bytes")) +
				 json_integer_value(json_object_get(memory, "absent_bytes")),
			 LENGTH);
	ck_assert_int_eq(json_integer_value(json_object_get(
				 json_array_get(json_object_get(memory, "mappings"), 0), "pid")),
			 getpid());
	ck_assert_int_gt(json_integer_value(json_object_get(json_object_get(reply, "counters"),
							    "pages_demand")),
			 0);
	ck_assert(json_is_false(json_object_get(json_object_get(reply, "settings"), "background")));
	json_decref(reply);

	/* let go: everything is filled first */
	json_decref(service_ask(vmm.client, "io.ufd.guest.Detach", json_pack("{s:s}", "name", "g"),
				NULL, 0));
	for (uint64_t i = 0; i < N_PAGES; i++)
		ck_assert_uint_eq(vmm.bytes[i * PAGE], i + 1);
	reply = service_ask(vmm.client, "io.ufd.guest.List", json_object(), NULL, 0);
	ck_assert_uint_eq(json_array_size(json_object_get(reply, "guests")), 0);
	json_decref(reply);
	vmm_end(&vmm);
}
END_TEST

/* @call is consumed. Every reply is right, and the last one says that all is there. */
static void prefetch(struct vmm *vmm, json_t *call, uint64_t total_bytes)
{
	struct varlink_answer answer;
	bool has_more = true;

	ck_assert_int_eq(varlink_client_send(vmm->client, "io.ufd.guest.Prefetch", call, NULL, 0,
					     VARLINK_MORE, SOON),
			 0);
	json_decref(call);
	while (has_more) {
		json_int_t done, total;
		int is_complete;

		ck_assert_int_eq(varlink_client_next(vmm->client, SOON, &answer), 0);
		ck_assert_ptr_null(answer.error);
		has_more = answer.has_more;
		ck_assert_int_eq(json_unpack(answer.parameters, "{s:I, s:I, s:b}", "done_bytes",
					     &done, "total_bytes", &total, "complete",
					     &is_complete),
				 0);
		ck_assert_int_eq(total, (json_int_t)total_bytes);
		ck_assert(is_complete == !has_more);
		ck_assert((done == total) == !has_more);
		varlink_answer_done(&answer);
	}
}

START_TEST(prefetch_tells_its_progress_until_all_is_there)
{
	struct vmm vmm;

	vmm_begin(&vmm);
	attach_well(&vmm);
	prefetch(&vmm,
		 json_pack("{s:s, s:s, s:i, s:i}", "name", "g", "memory", "ram", "offset_bytes",
			   8 * PAGE, "length_bytes", 16 * PAGE),
		 16 * PAGE);
	prefetch(&vmm,
		 json_pack("{s:s, s:s, s:i}", "name", "g", "memory", "ram", "offset_bytes",
			   60 * PAGE),
		 4 * PAGE);
	prefetch(&vmm, json_pack("{s:s}", "name", "g"), LENGTH);
	service_expect(
		vmm.client, "not whole pages", "io.ufd.guest.Prefetch",
		json_pack("{s:s, s:s, s:i}", "name", "g", "memory", "ram", "offset_bytes", -1),
		NULL, 0, "org.varlink.service.InvalidParameter", "offset_bytes");
	service_expect(vmm.client, "no such memory", "io.ufd.guest.Prefetch",
		       json_pack("{s:s, s:s}", "name", "g", "memory", "rom"), NULL, 0,
		       "org.varlink.service.InvalidParameter", "memory");
	vmm_end(&vmm);
}
END_TEST

START_TEST(memory_is_added_noted_and_removed)
{
	unsigned char page[PAGE];
	struct vmm vmm;

	vmm_begin(&vmm);
	attach_well(&vmm);
	json_decref(service_ask(vmm.client, "io.ufd.guest.AddRegions",
				json_pack("{s:s, s:[{s:s, s:I, s:i, s:s}]}", "name", "g", "regions",
					  "memory", "more", "address",
					  (json_int_t)(uintptr_t)vmm.anonymous, "length_bytes",
					  (int)LENGTH, "source", "zero"),
				NULL, 0));
	ck_assert_uint_eq(vmm.anonymous[5 * PAGE], 0);

	/* a discard makes absent bytes zero; a write of ours makes them ours */
	json_decref(service_ask(vmm.client, "io.ufd.guest.NoteDiscard",
				json_pack("{s:s, s:s, s:i, s:i}", "name", "g", "memory", "ram",
					  "offset_bytes", 40 * PAGE, "length_bytes", PAGE),
				NULL, 0));
	ck_assert_uint_eq(vmm.bytes[40 * PAGE], 0);
	memset(page, 0xee, PAGE);
	ck_assert_int_eq(pwrite(vmm.fds[FD_MEMORY], page, PAGE, 41 * PAGE), PAGE);
	json_decref(service_ask(vmm.client, "io.ufd.guest.NoteWrite",
				json_pack("{s:s, s:s, s:i, s:i}", "name", "g", "memory", "ram",
					  "offset_bytes", 41 * PAGE, "length_bytes", PAGE),
				NULL, 0));
	ck_assert_uint_eq(vmm.bytes[41 * PAGE], 0xee);
	ck_assert_uint_eq(vmm.bytes[42 * PAGE], 43);
	service_expect(vmm.client, "beyond the memory", "io.ufd.guest.NoteDiscard",
		       json_pack("{s:s, s:s, s:I, s:i}", "name", "g", "memory", "ram",
				 "offset_bytes", (json_int_t)LENGTH, "length_bytes", PAGE),
		       NULL, 0, "org.varlink.service.InvalidParameter", "offset_bytes");

	json_decref(service_ask(vmm.client, "io.ufd.guest.RemoveRegion",
				json_pack("{s:s, s:I, s:i}", "name", "g", "address",
					  (json_int_t)(uintptr_t)vmm.anonymous, "length_bytes",
					  (int)LENGTH),
				NULL, 0));
	service_expect(vmm.client, "a region twice removed", "io.ufd.guest.RemoveRegion",
		       json_pack("{s:s, s:I, s:i}", "name", "g", "address",
				 (json_int_t)(uintptr_t)vmm.anonymous, "length_bytes", (int)LENGTH),
		       NULL, 0, "io.ufd.guest.BadRegion", NULL);
	vmm_end(&vmm);
}
END_TEST

START_TEST(detach_without_populate_wants_a_complete_guest)
{
	struct vmm vmm;

	vmm_begin(&vmm);
	attach_well(&vmm);
	service_expect(vmm.client, "absent pages", "io.ufd.guest.Detach",
		       json_pack("{s:s, s:b}", "name", "g", "populate", 0), NULL, 0,
		       "io.ufd.guest.NotComplete", NULL);
	prefetch(&vmm, json_pack("{s:s}", "name", "g"), LENGTH);
	json_decref(service_ask(vmm.client, "io.ufd.guest.Detach",
				json_pack("{s:s, s:b}", "name", "g", "populate", 0), NULL, 0));
	vmm_end(&vmm);
}
END_TEST

/* A VMM that unmaps without a word: its pages can neither be filled nor missed. */
START_TEST(memory_that_vanished_holds_nobody_up)
{
	struct vmm vmm;

	vmm_begin(&vmm);
	attach_well(&vmm);
	munmap(vmm.bytes, LENGTH);
	json_decref(service_ask(vmm.client, "io.ufd.guest.Detach", json_pack("{s:s}", "name", "g"),
				NULL, 0));
	vmm_end(&vmm);
}
END_TEST

/* Told to stop, a daemon that cannot have the bytes leaves the guest waiting: zeros would be wrong. */
/* Its process holds a copy of the userfaultfd, so it can wait: nobody is filled, and nobody lingers. */
START_TEST(a_guest_with_a_copy_of_its_userfaultfd_is_left_waiting)
{
	struct proc_map_flags flags = {};
	siginfo_t ended;
	struct vmm vmm;

	vmm_begin(&vmm);
	attach_well(&vmm);
	ck_assert_uint_eq(vmm.bytes[0], 1);
	ck_assert_int_eq(ftruncate(vmm.fds[FD_SOURCE], 0), 0);
	kill(vmm.service.pid, SIGTERM);
	ck_assert_int_eq(waitid(P_PID, (id_t)vmm.service.pid, &ended, WEXITED | WNOWAIT), 0);
	ck_assert_int_eq(proc_map_flags(getpid(), (struct hva){ (uintptr_t)vmm.bytes }, &flags), 0);
	ck_assert(flags.is_uffd_missing);
	vmm_end_with(&vmm, 0);
}
END_TEST

static void *load_byte(void *at)
{
	return (void *)(uintptr_t) * (volatile unsigned char *)at;
}

/*
 * A ufdd that forgot the guest is gone, and a thread waits. Who hands over anew and says that nothing may be there
 * is refused; to let the range go then would show zeros to the thread.
 */
START_TEST(who_waits_already_is_not_let_go_by_a_refusal)
{
	struct pollfd fault = { .events = POLLIN };
	json_t *again, *parameters;
	uint64_t ioctls;
	pthread_t waiter;
	void *byte = NULL;
	struct vmm vmm;

	vmm_begin(&vmm);
	ck_assert_int_eq(pwrite(vmm.fds[FD_MEMORY], "\4", 1, 3 * PAGE), 1);
	ck_assert_int_eq(uffd_register(vmm.fds[FD_UFFD],
				       (struct hva_range){ { (uintptr_t)vmm.bytes }, LENGTH },
				       UFFD_MODE_MISSING, &ioctls),
			 0);
	ck_assert_int_eq(pthread_create(&waiter, NULL, load_byte, vmm.bytes + 5 * PAGE), 0);
	fault.fd = vmm.fds[FD_UFFD];
	ck_assert_int_eq(poll(&fault, 1, 20000), 1);
	service_expect(vmm.client, "a page is there", "io.ufd.guest.Attach", good_call(&vmm),
		       vmm.fds, N_FDS, "io.ufd.guest.NotEmpty", NULL);

	again = good_call(&vmm);
	parameters = json_object_get(again, "settings");
	json_object_set_new(parameters, "populated", json_string("keep"));
	json_decref(service_ask(vmm.client, "io.ufd.guest.Attach", again, vmm.fds, N_FDS));
	ck_assert_int_eq(pthread_join(waiter, &byte), 0);
	ck_assert_uint_eq((uintptr_t)byte, 6);
	ck_assert_uint_eq(vmm.bytes[0], 1);
	ck_assert_uint_eq(vmm.bytes[3 * PAGE], 4);
	vmm_end(&vmm);
}
END_TEST

START_TEST(a_name_serves_one_guest)
{
	struct vmm vmm;

	vmm_begin(&vmm);
	attach_well(&vmm);
	service_expect(vmm.client, "the name again", "io.ufd.guest.Attach",
		       attach_call("g", json_pack("[o]", region(&vmm, 0, 1))), vmm.fds, N_FDS,
		       "io.ufd.guest.GuestExists", NULL);
	attach_well(&vmm);			    /* the same hand-over again is the same guest */
	ck_assert_uint_eq(vmm.bytes[9 * PAGE], 10); /* and the one that is there is served */
	vmm_end(&vmm);
}
END_TEST

/* ---- other processes ---- */

/* A child with the same mappings; it ends when the pipe closes. @ret_uffd: its own, if wanted. */
static pid_t fork_twin(const struct vmm *vmm, int *ret_pipe, bool wants_uffd, int *ret_uffd)
{
	int hold[2], pair[2];
	pid_t pid, parent = getpid();

	ck_assert_int_eq(pipe2(hold, O_CLOEXEC), 0);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	pid = fork();
	if (pid == 0) {
		union {
			struct cmsghdr header;
			char bytes[CMSG_SPACE(sizeof(int))];
		} control = {};
		struct iovec part = { "x", 1 };
		struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
		int uffd = -1;
		char byte;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
		close(hold[1]);
		if (wants_uffd && uffd_open(&uffd, UFFD_WAY_SYSCALL, features_wanted(false)) == 0) {
			control.header.cmsg_level = SOL_SOCKET;
			control.header.cmsg_type = SCM_RIGHTS;
			control.header.cmsg_len = CMSG_LEN(sizeof(int));
			memcpy(CMSG_DATA(&control.header), &uffd, sizeof(int));
			message.msg_control = &control;
			message.msg_controllen = sizeof(control);
		}
		sendmsg(pair[1], &message, 0);
		if (read(hold[0], &byte, 1) == 1) /* else the pipe is closed: nothing to look at */
			for (uint64_t i = 0; i < N_PAGES; i++)
				if (vmm->bytes[i * PAGE] != i + 1)
					_exit(2);
		_exit(0);
	} else {
		union {
			struct cmsghdr header;
			char bytes[CMSG_SPACE(sizeof(int))];
		} control = {};
		char byte;
		struct iovec part = { &byte, 1 };
		struct msghdr message = { .msg_iov = &part,
					  .msg_iovlen = 1,
					  .msg_control = &control,
					  .msg_controllen = sizeof(control) };

		ck_assert_int_eq(recvmsg(pair[0], &message, MSG_CMSG_CLOEXEC), 1);
		if (wants_uffd)
			memcpy(ret_uffd, CMSG_DATA(&control.header), sizeof(int));
	}
	close(hold[0]);
	close(pair[0]);
	close(pair[1]);
	*ret_pipe = hold[1];
	return pid;
}

static void end_twin(pid_t pid, int pipe)
{
	close(pipe);
	waitpid(pid, NULL, 0);
}

/* It reads every page through its own mapping. */
static void expect_twin_reads_all(pid_t pid, int pipe)
{
	int status = -1;

	ck_assert_int_eq(write(pipe, "", 1), 1);
	waitpid(pid, &status, 0);
	ck_assert_int_eq(status, 0);
	close(pipe);
}

START_TEST(a_userfaultfd_of_another_process_is_found_out)
{
	struct vmm vmm;
	pid_t twin;
	int hold, uffd = -1;

	vmm_begin(&vmm);
	twin = fork_twin(&vmm, &hold, true, &uffd);
	swap_fd(&vmm, FD_UFFD, uffd);
	service_expect(vmm.client, "a uffd of a child", "io.ufd.guest.Attach", good_call(&vmm),
		       vmm.fds, N_FDS, "io.ufd.guest.CannotAttach", NULL);
	end_twin(twin, hold);
	vmm_end(&vmm);
}
END_TEST

START_TEST(another_mapper_is_named_or_served)
{
	_cleanup_(varlink_answer_done) struct varlink_answer answer = {};
	struct vmm vmm;
	json_t *call, *pids;
	pid_t twin;
	int hold;

	vmm_begin(&vmm);
	twin = fork_twin(&vmm, &hold, false, NULL);
	service_call(vmm.client, "io.ufd.guest.Attach", good_call(&vmm), vmm.fds, N_FDS, &answer);
	ck_assert_str_eq(answer.error, "io.ufd.guest.OtherMappers");
	pids = json_object_get(answer.parameters, "pids");
	ck_assert_uint_eq(json_array_size(pids), 1);
	ck_assert_int_eq(json_integer_value(json_array_get(pids, 0)), twin);

	/* eager: all bytes are there before the reply, whoever looks */
	call = good_call(&vmm);
	json_object_set_new(json_object_get(call, "settings"), "other_mappers",
			    json_string("eager"));
	json_decref(service_ask(vmm.client, "io.ufd.guest.Attach", call, vmm.fds, N_FDS));
	expect_twin_reads_all(twin, hold);
	vmm_end(&vmm);
}
END_TEST

START_TEST(another_mapper_is_attached_if_wanted)
{
	struct vmm vmm;
	json_t *call, *reply, *memory;
	pid_t twin;
	int hold;

	vmm_begin(&vmm);
	twin = fork_twin(&vmm, &hold, false, NULL);
	call = good_call(&vmm);
	json_object_set_new(json_object_get(call, "settings"), "other_mappers",
			    json_string("attach"));
	json_decref(service_ask(vmm.client, "io.ufd.guest.Attach", call, vmm.fds, N_FDS));
	reply = service_ask(vmm.client, "io.ufd.guest.Show", json_pack("{s:s}", "name", "g"), NULL,
			    0);
	memory = json_array_get(json_object_get(reply, "memories"), 0);
	ck_assert_uint_eq(json_array_size(json_object_get(memory, "mappings")), 2);
	ck_assert_int_gt(json_integer_value(json_object_get(memory, "absent_bytes")), 0);
	json_decref(reply);
	expect_twin_reads_all(twin, hold);
	for (uint64_t i = 0; i < N_PAGES; i++)
		ck_assert_uint_eq(vmm.bytes[i * PAGE], i + 1);
	vmm_end(&vmm);
}
END_TEST

START_TEST(a_guest_outlives_its_connection)
{
	struct vmm vmm;
	json_t *reply;

	vmm_begin(&vmm);
	attach_well(&vmm);
	varlink_client_free(vmm.client);
	for (uint64_t i = 0; i < N_PAGES; i++)
		ck_assert_uint_eq(vmm.bytes[i * PAGE], i + 1);
	vmm.client = service_connect(&vmm.service);
	reply = service_ask(vmm.client, "io.ufd.guest.List", json_object(), NULL, 0);
	ck_assert_uint_eq(json_array_size(json_object_get(reply, "guests")), 1);
	json_decref(reply);
	vmm_end(&vmm);
}
END_TEST

START_TEST(events_are_told_as_they_happen)
{
	static const char *const kinds[] = { "attached", "completed", "graduated", "detached" };
	struct varlink_client *watcher;
	struct varlink_answer answer;
	struct vmm vmm;

	vmm_begin(&vmm);
	watcher = service_connect(&vmm.service);
	ck_assert_int_eq(varlink_client_send(watcher, "io.ufd.manager.WatchEvents", NULL, NULL, 0,
					     VARLINK_MORE, SOON),
			 0);
	ck_assert_int_eq(varlink_client_next(watcher, SOON, &answer), 0);
	ck_assert_ptr_null(json_object_get(answer.parameters, "event"));
	varlink_answer_done(&answer);
	attach_well(&vmm);
	for (size_t i = 0; i < 4; i++) {
		const json_t *event;

		if (i == 1)
			for (uint64_t page = 0; page < N_PAGES; page++)
				ck_assert_uint_eq(vmm.bytes[page * PAGE], page + 1);
		if (i == 3)
			json_decref(service_ask(vmm.client, "io.ufd.guest.Detach",
						json_pack("{s:s}", "name", "g"), NULL, 0));
		ck_assert_int_eq(varlink_client_next(watcher, SOON, &answer), 0);
		ck_assert(answer.has_more);
		event = json_object_get(answer.parameters, "event");
		ck_assert_str_eq(json_string_value(json_object_get(event, "kind")), kinds[i]);
		ck_assert_str_eq(json_string_value(json_object_get(event, "guest")), "g");
		varlink_answer_done(&answer);
	}
	varlink_client_free(watcher);
	vmm_end(&vmm);
}
END_TEST

int main(void)
{
	return unit_run("rpc-attach",
			(struct unit_test[]){
				UNIT(a_guest_is_served_shown_and_let_go),
				UNIT(prefetch_tells_its_progress_until_all_is_there),
				UNIT(memory_is_added_noted_and_removed),
				UNIT(detach_without_populate_wants_a_complete_guest),
				UNIT(memory_that_vanished_holds_nobody_up),
				UNIT(a_guest_with_a_copy_of_its_userfaultfd_is_left_waiting),
				UNIT(who_waits_already_is_not_let_go_by_a_refusal),
				UNIT(a_name_serves_one_guest),
				UNIT(a_userfaultfd_of_another_process_is_found_out),
				UNIT(another_mapper_is_named_or_served),
				UNIT(another_mapper_is_attached_if_wanted),
				UNIT(a_guest_outlives_its_connection),
				UNIT(events_are_told_as_they_happen),
				{},
			});
}
